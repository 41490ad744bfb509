// A closer look with NiiVue: any slice, zoom, windowing, three dimensions. Fetched when first asked for.
"use strict";

const closer = (() => {
  const MASK = 0.3;
  const box = document.getElementById("closer");
  const told = box.querySelector("span");
  let viewer = null, loaded = null, tinted = false;

  function library() {
    loaded ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = "niivue.js";
      script.onload = () => resolve(window.niivue);
      script.onerror = () => {
        loaded = null;
        reject(new Error("NiiVue could not be loaded from this server."));
      };
      document.head.append(script);
    });
    return loaded;
  }

  async function open(scan) {
    box.hidden = false;
    told.textContent = `${scan}: loading`;
    try {
      if (!document.createElement("canvas").getContext("webgl2")) {
        throw new Error("This browser has no WebGL 2, which the closer look needs.");
      }
      const { Niivue } = await library();
      if (viewer === null) {
        viewer = new Niivue({
          backColor: [0, 0, 0, 1], crosshairColor: [0.3, 0.79, 0.94, 0.6], crosshairWidth: 0.5,
          show3Dcrosshair: true, isResizeCanvas: true, logLevel: "error",
        });
        await viewer.attachToCanvas(box.querySelector("canvas"));
        viewer.setSliceType(viewer.sliceTypeMultiplanar);
        viewer.setMultiplanarLayout(2);
      }
      const at = `api/volume/${encodeURIComponent(scan)}`;
      await viewer.loadVolumes([
        { url: `${at}/brain.nii.gz`, colormap: "gray" },
        { url: `${at}/mask.nii.gz`, colormap: "red", opacity: tinted ? MASK : 0 },
      ]);
      told.textContent = `${scan} · wheel: slices · right drag: contrast · M: mask in red`;
    } catch (error) {
      told.textContent = `${scan} cannot be shown here. ${error.message}`;
    }
  }

  return {
    get shown() { return !box.hidden; },
    open,
    close() { box.hidden = true; },
    tint() {
      tinted = !tinted;
      if (viewer && viewer.volumes.length > 1) viewer.setOpacity(1, tinted ? MASK : 0);
    },
  };
})();
