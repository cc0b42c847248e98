/* The window that shows one case: viewer on the left; flags, objects, measurements and provenance beside it. */

const caseWindow = (() => {
  const TOLD = ["value", "name", "color", "empty", "reasons"]; // of a label, elsewhere than in its measurements
  const dialog = byId("case");

  const read = (number) => JSON.parse(byId(`case-${number}`).textContent);

  const status = (name) => make("span", { className: `status ${name}` }, name);

  const errorBox = (error) =>
    make(
      "div",
      { className: "box failed-box failed" },
      make("p", {}, make("b", {}, error.message ?? "failed")),
      error.hint ? make("p", { className: "soft" }, error.hint) : null,
      make(
        "p",
        { className: "soft" },
        [error.kind, error.code === undefined ? "" : `exit code ${error.code}`].filter(Boolean).join(", "),
      ),
    );

  /* Least and largest allowed value, either of which may be open. */
  const limit = (bounds) => {
    if (!Array.isArray(bounds)) return plain(bounds);
    const [low, high] = bounds;
    if (low === null) return `at most ${plain(high)}`;
    return high === null ? `at least ${plain(low)}` : `${plain(low)} to ${plain(high)}`;
  };

  const flagBox = (flag) => {
    const numbers = [];
    if (flag.value !== null && flag.value !== undefined) numbers.push(`value ${plain(flag.value)}`);
    if (flag.limit !== null && flag.limit !== undefined) numbers.push(`limit ${limit(flag.limit)}`);
    const below = [flag.code, ...numbers].filter(Boolean).join(", ");
    return make(
      "div",
      { className: "box flagged-box flagged" },
      make("p", {}, make("b", {}, flag.message)),
      make("p", { className: "soft" }, below),
    );
  };

  const amount = (label) => {
    if (label.empty) return "empty";
    if (label.volume_ml !== null && label.volume_ml !== undefined) return `${figure(label.volume_ml)} mL`;
    if (label.area_mm2 !== null && label.area_mm2 !== undefined) return `${figure(label.area_mm2)} mm²`;
    return `${label.voxels ?? "?"} px`;
  };

  const legend = (labels, hasViewer) =>
    make(
      "ul",
      { className: "legend" },
      ...labels.map((label) => {
        const box = make("input", { type: "checkbox", checked: true, hidden: !hasViewer });
        box.addEventListener("change", () => viewer.setVisible(label.value, box.checked));
        const swatch = make("b", {});
        swatch.style.background = label.color;
        return make(
          "li",
          {},
          make("label", {}, box, swatch, label.name),
          make("span", { className: "amount" }, amount(label)),
        );
      }),
    );

  /* One measurement; what has no value says why. */
  const measured = (value, why) => {
    if (value === null || value === undefined)
      return make("span", { className: "why" }, `none: ${why ?? "no reason was recorded"}`);
    if (typeof value !== "object" || isFlat(value)) return tree(value);
    if (Array.isArray(value))
      return value.every(isFlat) ? value.map((each) => `(${tree(each)})`).join(" to ") : tree(value);
    const reason = typeof why === "object" ? why : {};
    return terms(Object.entries(value).map(([key, each]) => [titleOf(key), measured(each, reason?.[key] ?? why)]));
  };

  const measurements = (label, open) => {
    const reasons = label.reasons ?? {};
    const pairs = Object.entries(label).filter(
      ([key]) => !TOLD.includes(key) && !(key === "snomed" && label[key] === null),
    );
    const shown = pairs.map(([key, value]) => [
      key === "snomed" ? "SNOMED CT" : titleOf(key),
      measured(value, reasons[key]),
    ]);
    return folded(label.name, terms(shown), open);
  };

  /* What the network thinks of its own answer, per object; most networks say nothing. */
  const scores = (found) => {
    const method = found.report.pipeline ?? {};
    const presence = new Map((method.presence ?? []).map((each) => [each.label, each.probability]));
    const said = found.labels.flatMap((label) => {
      const iou = method.objects?.[label.value - 1]?.predicted_iou;
      return [
        ...(iou === null || iou === undefined ? [] : [[`${label.name}: predicted IoU`, tree(iou)]]),
        ...(presence.has(label.value)
          ? [[`${label.name}: probability of presence`, tree(presence.get(label.value))]]
          : []),
      ];
    });
    return said.length ? terms(said) : make("p", { className: "why" }, "none: this method scores no mask of its own");
  };

  const output = (each) => {
    const link = each.link ? make("a", { href: each.link, target: "_blank", rel: "noopener" }, each.path) : each.path;
    return make(
      "div",
      {},
      link,
      make(
        "div",
        { className: "soft" },
        `${each.bytes ?? "?"} bytes, SHA-256 `,
        make("code", {}, each.sha256 ?? "?"),
      ),
    );
  };

  const provenance = (found) => {
    const { report } = found;
    const command = report.run?.command;
    const blocks = [
      ["Scan", found.input],
      ["Preset", report.preset ?? { name: found.preset }],
      ["Weights", report.weights],
      ["Prompt", report.prompts],
      ["Method", report.pipeline],
      [
        "Run",
        report.run && {
          ...report.run,
          command: undefined,
          ...(report.precision ? { precision: report.precision } : {}),
        },
      ],
      [
        "Time and memory",
        {
          seconds: found.seconds,
          peak_rss_mib: found.peak_rss_mib,
          started: found.started,
          finished: found.finished,
          worker: found.worker,
          stages: found.stages,
        },
      ],
      ["Versions", report.software ?? found.versions],
    ];
    const parts = blocks
      .filter(([, content]) => content && Object.keys(content).length)
      .map(([title, content]) => folded(title, tree(JSON.parse(JSON.stringify(content)))));
    if (command && command.length) parts.push(folded("Command", make("code", {}, command.join(" "))));
    if (found.outputs.length) parts.push(folded("Files", found.outputs.map(output), true));
    return parts;
  };

  /* Which part of the scan the viewer has, and how finely. */
  const shownPart = (view) => {
    const ranges = ["i", "j", "k"].map((axis, n) => `${axis} ${view.first_ijk[n]} to ${view.last_ijk[n]}`).join(", ");
    const cell = view.picture ? "pixel" : "voxel";
    const blocks = view.step_ijk.some((step) => step > 1) ? ` in blocks of ${view.step_ijk.join(" × ")} ${cell}s` : "";
    const whole = view.shape_ijk.every((size, n) => view.first_ijk[n] === 0 && view.last_ijk[n] === size - 1);
    if (whole && !blocks) return "The viewer shows the whole scan at its own resolution.";
    return `The viewer shows ${whole ? "the whole scan" : `${cell}s ${ranges} of the scan`}${blocks}, with 8 bits per value. The mask file has every ${cell}.`;
  };

  const help = () =>
    make(
      "p",
      { className: "soft" },
      "Wheel: slices. Click: crosshair. Right button or Shift and drag: brightness and contrast. Middle button or Ctrl and drag: move. In 3-D drag to turn, wheel to zoom.",
    );

  const fillSide = (found, hasViewer) => {
    const parts = [];
    if (!hasViewer && noViewer(found)) parts.push(make("p", { className: "soft" }, noViewer(found)));
    if (found.error) parts.push(...section("Failed", errorBox(found.error)));
    if (found.flags.length)
      parts.push(...section(found.flags.length === 1 ? "Flag" : "Flags", ...found.flags.map(flagBox)));
    else if (found.reason && !found.error) parts.push(...section("Why", make("p", {}, found.reason)));
    if (found.labels.length) {
      parts.push(...section("Objects", legend(found.labels, hasViewer)));
      parts.push(...section("Measurements", ...found.labels.map((label, place) => measurements(label, place === 0))));
    }
    if (found.labels.length) parts.push(...section("Scores", scores(found)));
    if (found.notes.length)
      parts.push(...section("Notes", ...found.notes.map((note) => make("p", { className: "soft" }, note))));
    parts.push(...section("Where it comes from", ...provenance(found)));
    if (hasViewer) parts.push(...section("Viewer", make("p", { className: "soft" }, shownPart(found.view)), help()));
    byId("side").replaceChildren(...parts);
    byId("side").scrollTop = 0;
  };

  const say = (text) => {
    byId("message").textContent = text;
    byId("message").hidden = !text;
  };

  /* The preview instead of the viewer, and why. Where there is neither, the text has the whole window. */
  const showPicture = (number, reason) => {
    const data = byId(`picture-${number}`);
    dialog.classList.toggle("words", !data);
    byId("picture").src = data ? `data:image/webp;base64,${data.textContent}` : "";
    byId("picture").hidden = !data;
    byId("canvas").hidden = true;
    byId("tools").hidden = true;
    say(reason);
    byId("side").focus({ preventScroll: true });
  };

  const noViewer = (found) => {
    if (found.error) return "This case failed: there is no mask to show.";
    return found.no_view;
  };

  const showViewer = async (number, found) => {
    dialog.classList.remove("words");
    byId("canvas").hidden = false;
    byId("picture").hidden = true;
    byId("tools").hidden = false;
    say("Loading …");
    try {
      if (await viewer.show(number, found.view, found.labels)) {
        say("");
        byId("canvas").focus({ preventScroll: true });
      }
    } catch (error) {
      showPicture(number, `The viewer could not be started: ${error.message}`);
    }
  };

  /* Open case `number`, or show it in the open window. `place` says where it is in the table. */
  const open = (number, place) => {
    const found = read(number);
    viewer.clear();
    byId("case-title").textContent = found.id;
    byId("case-status").replaceChildren(status(found.status));
    byId("case-place").textContent = place;
    const hasViewer = found.view !== null && viewer.supported();
    fillSide(found, hasViewer);
    if (!dialog.open) dialog.showModal();
    dialog.dataset.case = number;
    if (hasViewer) return showViewer(number, found);
    const lacking = "This browser has no WebGL2, which the viewer needs. Here is the preview instead.";
    return showPicture(number, found.view !== null ? lacking : noViewer(found));
  };

  const close = () => {
    viewer.clear();
    if (dialog.open) dialog.close();
  };

  return { open, close, read, dialog };
})();
