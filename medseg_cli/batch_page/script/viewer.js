/* The viewer of a case: NiiVue over the volumes that stand in this page as text. */

const viewer = (() => {
  const LAYOUTS = [
    ["four", "4 views"],
    ["axial", "Axial"],
    ["coronal", "Coronal"],
    ["sagittal", "Sagittal"],
    ["render", "3-D"],
  ];
  const SCAN_IN_RENDER = 0.25; // as a shell round the objects; 1 would hide them
  const BACKGROUND = [0, 0, 0, 1];
  const CROSSHAIR_WIDTH = 0.4; // percent of the volume
  const FLAT_CROSSHAIR = 0.15;
  const LETTERS = [0.9, 0.9, 0.9, 1];
  const CROSSHAIR = [0.35, 0.8, 1, 0.55];

  let nv = null;
  let current = null; // what is shown: view, labels, and which of them are hidden
  let turn = 0; // of the last call of show: an earlier one that is still loading must not win

  /* Whether this browser can draw; asked once, because browsers allow few contexts. */
  const supported = (() => {
    let known = null;
    return () => (known ??= Boolean(window.niivue && document.createElement("canvas").getContext("webgl2")));
  })();

  const create = async () => {
    const { Niivue, SHOW_RENDER, MULTIPLANAR_TYPE, DRAG_MODE } = window.niivue;
    const made = new Niivue({
      backColor: BACKGROUND,
      crosshairColor: CROSSHAIR,
      crosshairWidth: CROSSHAIR_WIDTH,
      crosshairWidthUnit: "percent",
      crosshairGap: 8,
      fontColor: LETTERS,
      dragAndDropEnabled: false,
      isColorbar: false,
      // As the previews: the patient's right on the left side, the face to the left.
      isRadiologicalConvention: true,
      sagittalNoseLeft: true,
      // Along the scan's own axes, so that a slice here is a slice of the scan.
      isSliceMM: false,
      logLevel: "error",
      multiplanarLayout: MULTIPLANAR_TYPE.GRID,
      multiplanarPadPixels: 4,
      multiplanarShowRender: SHOW_RENDER.ALWAYS,
      showAllOrientationMarkers: true,
      viewModeHotKey: "",
    });
    made.opts.mouseEventConfig = {
      leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.windowing, withCtrl: DRAG_MODE.pan },
      rightButton: DRAG_MODE.windowing,
      centerButton: DRAG_MODE.pan,
    };
    made.onLocationChange = tellPlace;
    await made.attachToCanvas(byId("canvas"));
    return made;
  };

  const volume = (id, options) => window.niivue.NVImage.loadFromBase64({ base64: byId(id).textContent, ...options });

  /* Give a mask the colours of its labels; hidden ones are transparent. NiiVue takes a value above the mask's highest
     for that one, which would then get the colour of an empty object. */
  const paint = (mask, labels, hidden) => {
    const table = { I: [0], R: [0], G: [0], B: [0], A: [0], labels: [""] };
    for (const label of labels.filter((each) => each.value <= mask.global_max)) {
      const rgb = parseInt(label.color.slice(1), 16);
      table.I.push(label.value);
      table.R.push(rgb >> 16);
      table.G.push((rgb >> 8) & 255);
      table.B.push(rgb & 255);
      table.A.push(hidden.has(label.value) ? 0 : 255);
      table.labels.push(label.name);
    }
    mask.setColormapLabel(table);
  };

  /* Which voxel of the scan lies at a place in mm. NiiVue's own indices are of axes that it has turned. */
  const scanVoxel = (view, mm) =>
    view.affine_ras_mm_to_ijk.slice(0, 3).map(([x, y, z, shift], axis) => {
      const index = Math.round(x * mm[0] + y * mm[1] + z * mm[2] + shift);
      return Math.min(Math.max(index, 0), view.shape_ijk[axis] - 1);
    });

  const tellPlace = (place) => {
    if (!current || !place || !place.values.length) return;
    const { view, labels } = current;
    const mm = Array.from(place.mm).slice(0, 3);
    const voxel = scanVoxel(view, mm);
    const shrunken = view.step_ijk.some((step) => step > 1);
    const words = [`${view.picture ? "pixel" : "voxel"} ${shrunken ? "near " : ""}${voxel.join(", ")}`];
    const rounded = mm.map((each) => figure(Math.round(each * 10) / 10));
    if (!view.picture) words.push(`${rounded.join(", ")} mm (RAS)`);
    if (view.window) words.push(`value ${figure(place.values[0].value)}`);
    const found = labels.find((label) => label.value === Math.round(place.values[1]?.value ?? 0));
    words.push(found ? found.name : "no object");
    byId("where").textContent = words.join("  ·  ");
    byId("where").dataset.voxel = voxel.join(",");
  };

  const sliceType = (name) => {
    const { SLICE_TYPE } = window.niivue;
    return name === "four" ? SLICE_TYPE.MULTIPLANAR : SLICE_TYPE[name.toUpperCase()];
  };

  const setLayout = (name) => {
    for (const button of byId("layouts").children)
      button.setAttribute("aria-pressed", button.dataset.layout === name);
    const opacity = name === "render" ? SCAN_IN_RENDER : 1;
    byId("scan-opacity").value = opacity;
    byId("scan-label").hidden = name !== "render";
    nv.setOpacity(0, opacity);
    nv.setSliceType(sliceType(name));
  };

  const startOf = (view) => view.plane ?? "four";

  const reset = () => {
    const { view } = current;
    if (view.window) [nv.volumes[0].cal_min, nv.volumes[0].cal_max] = view.window;
    nv.scene.pan2Dxyzmm = [0, 0, 0, 1];
    nv.setScale(1);
    nv.scene.renderAzimuth = 110;
    nv.scene.renderElevation = 10;
    nv.scene.crosshairPos = nv.mm2frac(view.center_ras_mm, 0, true);
    byId("mask-opacity").value = 0.5;
    nv.setOpacity(1, 0.5);
    nv.updateGLVolume();
    setLayout(startOf(view));
    nv.createOnLocationChange();
  };

  /* Show case `number`; false where a later call came first. */
  const show = async (number, view, labels) => {
    const mine = ++turn;
    nv ??= await create();
    const window_ = view.window ? { cal_min: view.window[0], cal_max: view.window[1] } : {};
    const scan = await volume(`scan-${number}`, {
      name: "scan.nii.gz",
      colormap: "gray",
      trustCalMinMax: false,
      ...window_,
    });
    const mask = await volume(`mask-${number}`, { name: "mask.nii.gz", opacity: 0.5 });
    if (mine !== turn) return false;
    while (nv.volumes.length) nv.removeVolumeByIndex(nv.volumes.length - 1);
    current = { view, labels, hidden: new Set() };
    paint(mask, labels, current.hidden);
    // The window has just been opened: NiiVue may not have seen yet that its canvas has a size again.
    nv.resizeListener();
    // Before there is anything to draw: NiiVue cannot lay out one slice as four views.
    nv.setSliceType(sliceType(startOf(view)));
    nv.setCrosshairWidth(view.plane ? FLAT_CROSSHAIR : CROSSHAIR_WIDTH);
    nv.addVolume(scan);
    nv.addVolume(mask);
    nv.setIsOrientationTextVisible(!view.picture);
    nv.setInterpolation(false);
    byId("layouts").hidden = view.plane !== null;
    reset();
    return true;
  };

  /* Forget the case, and what is still loading. */
  const clear = () => {
    turn += 1;
    current = null;
    byId("where").textContent = "";
    delete byId("where").dataset.voxel;
    while (nv && nv.volumes.length) nv.removeVolumeByIndex(nv.volumes.length - 1);
  };

  const setVisible = (value, visible) => {
    if (!current) return;
    if (visible) current.hidden.delete(value);
    else current.hidden.add(value);
    paint(nv.volumes[1], current.labels, current.hidden);
    nv.updateGLVolume();
  };

  for (const [name, text] of LAYOUTS) {
    const button = make("button", { type: "button" }, text);
    button.dataset.layout = name;
    button.addEventListener("click", () => current && setLayout(name));
    byId("layouts").append(button);
  }
  byId("mask-opacity").addEventListener("input", (event) => current && nv.setOpacity(1, Number(event.target.value)));
  byId("scan-opacity").addEventListener("input", (event) => current && nv.setOpacity(0, Number(event.target.value)));
  byId("reset").addEventListener("click", () => current && reset());

  return { supported, show, clear, setVisible };
})();
