/* The table: sorting, filtering, the keyboard, and the address (#case=...) that says which case is open. */

(() => {
  const table = document.querySelector(".cases");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows];
  /* The case that an address names; "" for none, and for what is no address of ours. */
  const caseOf = (address) => {
    if (!address.startsWith("#case=")) return "";
    try {
      return decodeURIComponent(address.slice("#case=".length));
    } catch {
      return "";
    }
  };
  const rowOf = new Map(rows.map((row) => [caseOf(row.querySelector("td a").getAttribute("href")), row]));
  let show = "";

  const shown = () => [...body.rows].filter((row) => !row.hidden);

  const valueOf = (row, column) => {
    const text = row.cells[column].dataset.value;
    if (text === undefined) return null;
    return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };

  /* Numbers by size, words as people order them, rows without a value at the end either way. */
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
  };

  const sort = (column) => {
    const up = heads[column].getAttribute("aria-sort") !== "ascending";
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[column].setAttribute("aria-sort", up ? "ascending" : "descending");
    const values = new Map(rows.map((row) => [row, valueOf(row, column)]));
    body.append(...[...body.rows].sort((a, b) => compare(values.get(a), values.get(b), up ? 1 : -1)));
  };

  const filter = () => {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      row.hidden = !(
        (!show || row.dataset.status === show) &&
        words.every((word) => row.dataset.words.includes(word))
      );
      count += !row.hidden;
    }
    byId("found").textContent = count === rows.length ? "" : `${count} of ${rows.length} cases`;
    document.querySelector(".nothing").hidden = count > 0;
  };

  const openedRow = () => rowOf.get(caseOf(location.hash)) ?? null;

  const follow = () => {
    const row = openedRow();
    if (!row) return caseWindow.close();
    const order = shown();
    const place = order.indexOf(row);
    byId("previous").disabled = place <= 0;
    byId("next").disabled = place < 0 || place === order.length - 1;
    return caseWindow.open(Number(row.dataset.case), place < 0 ? "" : `${place + 1} of ${order.length}`);
  };

  /* The case beside the open one, in the order of the table; earlier addresses are replaced, so that "back" closes. */
  const turn = (by) => {
    const order = shown();
    const next = order[order.indexOf(openedRow()) + by];
    if (!next) return;
    history.replaceState(null, "", next.querySelector("td a").getAttribute("href"));
    follow();
  };

  const shut = () => {
    const row = openedRow();
    history.pushState(null, "", location.pathname + location.search);
    caseWindow.close();
    row?.querySelector("td a").focus();
  };

  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row && !event.target.closest("a") && !String(getSelection()))
      location.hash = row.querySelector("td a").getAttribute("href");
  });
  body.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const row = event.target.closest("tr");
    if (!step || !row) return;
    const order = shown();
    order[order.indexOf(row) + step]?.querySelector("td a").focus();
    event.preventDefault();
  });
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => {
      show = button.dataset.show;
      for (const each of document.querySelectorAll("[data-show]")) each.setAttribute("aria-pressed", each === button);
      filter();
    });
  }
  byId("find").addEventListener("input", filter);
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("close").addEventListener("click", shut);
  caseWindow.dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    shut();
  });
  caseWindow.dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "n") turn(1);
    if (event.key === "p") turn(-1);
  });
  window.addEventListener("hashchange", follow);
  heads[0].setAttribute("aria-sort", "ascending");
  follow();
})();
