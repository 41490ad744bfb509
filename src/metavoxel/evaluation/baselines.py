"""What a reader compares with: the population mean, and linear models on the voxels."""

from __future__ import annotations

import numpy as np
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_PENALTIES = np.logspace(-3, 3, 7)  # relative to the mean of the kernel's diagonal


def population_mean(train: np.ndarray, count: int) -> np.ndarray:
    """The mean of the training values (n,), `count` times."""
    return np.full(count, train.mean())


def majority(train: np.ndarray, count: int) -> np.ndarray:
    """The most frequent of the training labels (n,), `count` times."""
    labels, counts = np.unique(train, return_counts=True)
    return np.full(count, labels[counts.argmax()])


def kernel_ridge(voxels: np.ndarray, values: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge regression of values (n,) on voxels (n, d), applied to test (m, d).

    The penalty is chosen by 5-fold cross-validation within the training records.
    """
    middle = voxels.mean(0)
    x, x_test = voxels - middle, test - middle
    kernel = x @ x.T  # once: there are many more voxels than subjects
    grid = {"alpha": list(_PENALTIES * float(kernel.trace() / len(x)))}
    search = GridSearchCV(
        KernelRidge(kernel="precomputed"),
        grid,
        scoring="neg_mean_absolute_error",
        cv=min(5, len(values)),
    )
    centre = values.mean()
    search.fit(kernel, values - centre)
    return search.predict(x_test @ x.T) + centre


def frequencies(train: np.ndarray, labels: int, count: int) -> np.ndarray:
    """How frequent each of the labels 0 ... K - 1 is in training (n,), `count` times: (count, K).

    One is added to each, as if every label had been seen once more.
    """
    seen = np.bincount(train.astype(int), minlength=labels) + 1.0
    return np.tile(seen / seen.sum(), (count, 1))


def logistic(voxels: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Penalised logistic regression of labels (n,) on voxels (n, d), applied to test (m, d)."""
    classes, probabilities = logistic_probabilities(voxels, labels, test)
    return classes[probabilities.argmax(1)]


def logistic_probabilities(
    voxels: np.ndarray, labels: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The labels that occur in training (k,), and their probabilities (m, k).

    It works in the space the training records span, which gives the same classifier at the cost of
    n x n matrices. The penalty is chosen by 5-fold cross-validation within the training records;
    where a label occurs once, that cannot be, and the answer is how frequent the labels are.
    """
    classes, counts = np.unique(labels, return_counts=True)
    folds = int(min(5, counts.min()))
    if folds < 2 or len(classes) < 2:
        return classes, np.tile(counts / counts.sum(), (len(test), 1))
    middle = voxels.mean(0)
    _, _, basis = np.linalg.svd(voxels - middle, full_matrices=False)
    x, x_test = (voxels - middle) @ basis.T, (test - middle) @ basis.T
    scale = float(x.std())
    model = make_pipeline(StandardScaler(with_std=False), LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": list(_PENALTIES / scale**2)}
    search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=folds)
    return classes, search.fit(x, labels).predict_proba(x_test)
