// Moves what is drawn to the places of another choice of score and cost, all of which come from the page.
function ticks(group, places, transform) {
  group.replaceChildren(...places.map(([place, text], i) => {
    const tick = group.children[Math.min(i, group.children.length - 1)].cloneNode(true);
    tick.setAttribute("transform", transform(place));
    one("text", tick).textContent = text;
    return tick;
  }));
}

function draw(part, visible) {
  const has = (select, value) => [...select.options].some((each) => each.value === value);
  if (has(part.x, state.x)) part.x.value = state.x; else part.x.selectedIndex = 0;
  if (has(part.y, state.y)) part.y.value = state.y; else part.y.selectedIndex = 0;
  const choice = `${part.x.selectedIndex} ${part.y.selectedIndex}`, moves = part.drawn !== choice;
  part.drawn = choice;
  for (const chart of part.charts) {
    const {svg} = chart, at = part.layouts[svg.classList[1]][part.x.value][part.y.selectedIndex];
    if (moves) move(part, chart, at);
    chart.points.forEach((point, i) => {
      const shown = at.p[i] && visible.has(point.getAttribute("href").slice(3));
      point.toggleAttribute("hidden", !shown);
      chart.labels[i].toggleAttribute("hidden", !shown || at.l[i] === null);
      chart.leaders[i].toggleAttribute("hidden", !shown || at.l[i] === null);
    });
  }
}

function move(part, {svg, points, labels, leaders, names}, at) {
  const right = Number(svg.dataset.right), bottom = Number(svg.dataset.bottom), heading = part.y.value;
  svg.classList.toggle("equal", at.c);
  ticks(one(".x", svg), at.x, (x) => `translate(${x} ${bottom})`);
  ticks(one(".y", svg), at.y, (y) => `translate(0 ${y})`);
  one(".score", svg).textContent = heading;
  one(".cost", svg).textContent = at.t;
  one(".front", svg).setAttribute("d", at.f);
  all(".ladders path", svg).forEach((path, i) => path.setAttribute("d", at.s[i]));
  all(".levels > g", svg).forEach((group, i) => {
    group.toggleAttribute("hidden", !at.v[i]);
    if (!at.v[i]) return;
    one("path", group).setAttribute("d", at.v[i][0]);
    one("text", group).textContent = at.v[i][1];
    one("text", group).setAttribute("y", at.v[i][2] + 4);
  });
  const cells = new Map(part.tables.flatMap((table) => {
    const column = table.heads.findIndex((head) => textOf(head) === heading);
    return table.rows.map((each) => [each.key, column < 0 ? "" : each.row.cells[column].textContent.replace("†", "").trim()]);
  }));
  points.forEach((point, i) => {
    if (!at.p[i]) return;
    const [x, y, high, low] = at.p[i];
    point.setAttribute("transform", `translate(${x} ${y})`);
    one(".bar", point).setAttribute("d", `M0 ${high}V${low}`);
    one("title", point).textContent = `${names[i]}: ${cells.get(point.getAttribute("href").slice(3))} %`;
    if (at.l[i] === null) return;
    labels[i].setAttribute("transform", `translate(${right + 10} ${at.l[i]})`);
    leaders[i].setAttribute("d", `M${x + 7} ${y}L${right + 4} ${at.l[i]}`);
  });
}
