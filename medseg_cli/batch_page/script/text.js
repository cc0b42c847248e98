/* Words, numbers and elements. A string of a case only ever becomes a text node: none is read as HTML. */

const byId = (id) => document.getElementById(id);

/* A new element with properties and children; children that are null are left out. */
const make = (tag, properties, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
};

const UNITS = [
  ["_ijk_to_ras_mm", ", voxel to mm (RAS)"],
  ["_ras_mm", ", mm (RAS)"],
  ["_ijk_inclusive", ", voxels"],
  ["_ijk", ", voxels"],
  ["_mm3", ", mm³"],
  ["_mm2", ", mm²"],
  ["_mm", ", mm"],
  ["_ml", ", mL"],
  ["_hu", ", HU"],
  ["_mib", ", MiB"],
];

/* A key for people: "volume_ml" is "volume, mL". */
const titleOf = (key) => {
  const [ending, unit] = UNITS.find(([each]) => key.endsWith(each)) ?? ["", ""];
  return key.slice(0, key.length - ending.length).replaceAll("_", " ") + unit;
};

/* A number with as many digits as one reads. */
const figure = (value) => {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) || Math.abs(value) >= 10000) return String(Math.round(value)).replace("-", "−");
  return String(Number(value.toPrecision(4))).replace("-", "−");
};

const plain = (value) => {
  if (typeof value === "number") return figure(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return String(value);
};

const isFlat = (value) => Array.isArray(value) && value.every((each) => each === null || typeof each !== "object");

/* Any JSON as elements: objects as lists of terms, lists of plain values on one line. */
const tree = (value) => {
  if (value === null || value === undefined) return make("span", { className: "why" }, "none");
  if (typeof value !== "object") return plain(value);
  if (isFlat(value)) {
    const words = value.map((each) => (each === null ? "none" : plain(each)));
    return words.length ? words.join(value.every((each) => typeof each === "number") ? ", " : " ") : "none";
  }
  if (Array.isArray(value)) return value.map((each) => make("div", {}, tree(each)));
  return terms(Object.entries(value).map(([key, each]) => [titleOf(key), tree(each)]));
};

/* A list of [term, content]. */
const terms = (pairs) =>
  make("dl", {}, ...pairs.flatMap(([term, content]) => [make("dt", {}, term), make("dd", {}, ...[content].flat())]));

const section = (title, ...children) => [make("h3", {}, title), ...children];

const folded = (title, content, open = false) =>
  make("details", { open }, make("summary", {}, title), ...[content].flat());
