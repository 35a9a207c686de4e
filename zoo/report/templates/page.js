'use strict';
for (const button of document.querySelectorAll('th button')) {
  button.addEventListener('click', () => {
    const head = button.parentElement, table = head.closest('table'), body = table.tBodies[0];
    const up = head.getAttribute('aria-sort') !== 'ascending', column = head.cellIndex;
    for (const other of head.parentElement.cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b), m = parseFloat(x), n = parseFloat(y);
      const order = isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n;
      return up ? order : -order;
    });
    body.append(...rows);
  });
}
for (const map of document.querySelectorAll('.map')) {
  const svg = map.querySelector('svg'), tip = map.querySelector('.tip'), live = map.querySelector('.live');
  const dots = [...svg.querySelectorAll('circle')], sheet = map.dataset.sheet, columns = +map.dataset.columns, size = 40, zoom = 2;
  let at = -1;
  const show = index => {
    if (at >= 0) dots[at].classList.remove('at');
    at = index;
    if (at < 0) { tip.style.display = 'none'; return; }
    const dot = dots[at], area = map.getBoundingClientRect(), own = dot.getBoundingClientRect();
    dot.classList.add('at');
    tip.replaceChildren();
    if (sheet) {
      const picture = document.createElement('i');
      Object.assign(picture.style, { width: size * zoom + 'px', height: size * zoom + 'px',
        backgroundImage: 'url(' + document.getElementById(sheet).src + ')', backgroundSize: columns * size * zoom + 'px auto',
        backgroundPosition: -(at % columns) * size * zoom + 'px ' + -Math.floor(at / columns) * size * zoom + 'px' });
      tip.append(picture);
    }
    tip.append(dot.dataset.label);
    tip.style.display = 'block';
    const left = own.left - area.left + 14, top = own.top - area.top + 14;
    tip.style.left = Math.max(0, Math.min(left, area.width - tip.offsetWidth - 4)) + 'px';
    tip.style.top = Math.max(0, Math.min(top, area.height - tip.offsetHeight - 4)) + 'px';
    if (document.activeElement === svg) live.textContent = dot.dataset.label;
  };
  const places = dots.map(dot => [+dot.getAttribute('cx'), +dot.getAttribute('cy')]);
  svg.addEventListener('pointermove', event => {
    const area = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / area.width;
    const x = (event.clientX - area.left) * scale, y = (event.clientY - area.top) * scale;
    let best = -1, least = 144;
    places.forEach((place, index) => {
      const far = (place[0] - x) ** 2 + (place[1] - y) ** 2;
      if (far < least) { least = far; best = index; }
    });
    show(best);
  });
  svg.addEventListener('pointerleave', () => show(-1));
  svg.addEventListener('blur', () => show(-1));
  svg.addEventListener('keydown', event => {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (event.key === 'Escape') return show(-1);
    if (!step) return;
    event.preventDefault();
    if (at < 0) return show(0);
    let best = -1, least = Infinity;
    places.forEach((place, index) => {
      const along = (place[0] - places[at][0]) * step[0] + (place[1] - places[at][1]) * step[1];
      const aside = Math.abs((place[0] - places[at][0]) * step[1]) + Math.abs((place[1] - places[at][1]) * step[0]);
      if (index !== at && along > 0 && along + 2 * aside < least) { least = along + 2 * aside; best = index; }
    });
    if (best >= 0) show(best);
  });
}
