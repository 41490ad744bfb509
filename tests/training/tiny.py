"""A run so small that a test can train it: brains at 8 mm, a few hundred steps."""

from __future__ import annotations

from typing import Any

from metavoxel.training.config import RunConfig


def tiny_config(seed: int = 0, steps: int = 300, **joint: Any) -> RunConfig:
    """Image, age, sex and diagnosis of the simulated cohort on a 24 x 24 x 24 grid."""
    return RunConfig.model_validate(tiny_settings(seed, steps, **joint))


def tiny_settings(seed: int = 0, steps: int = 300, **joint: Any) -> dict[str, Any]:
    return {
        "schema": {
            "variables": {
                "image": {"kind": "image", "shape": [24, 24, 24], "spacing": [8, 8, 8]},
                "age": {"kind": "continuous", "unit": "years", "range": [20, 90]},
                "sex": {"kind": "categorical", "labels": ["F", "M"]},
                "diagnosis": {"kind": "categorical", "labels": ["CN", "MCI", "AD"]},
            }
        },
        "model": {
            "encoding": {
                "kind": "kl",
                "factor": 4,
                "patch": 2,
                "channels": [16, 16],
                "latent_channels": 16,
            },
            "denoiser": {
                "channels": [32, 64],
                "head_channels": 32,
                "groups": 8,
                "scalar_head_channels": 32,
            },
        },
        "training": {
            "seed": seed,
            "split": {"kind": "fractions", "train": 0.7, "validation": 0.05, "test": 0.25},
            "autoencoder": {"steps": 20, "validate_every": 20, "adversarial_weight": 0},
            "joint": {
                "steps": steps,
                "batch_size": 16,
                "learning_rate": 2e-3,
                "warmup_steps": 20,
                "copies": 4,
                "ema_decay": 0.98,
                "validate_every": 100,
                "validation_draws": 4,
                "checkpoint_every": 7,
                "answers_every": 2,
                "calibration_folds": 0,
                **joint,
            },
        },
    }
