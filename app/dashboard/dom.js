// Elements from text. Nothing that comes from outside is ever read as markup: strings become text nodes.

/**
 * An element with attributes and children; `onclick` and its like are listeners, null and false leave a thing out.
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Sets the text of a node where it changes: what is selected or read aloud is otherwise left alone. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Replaces the children of a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

const rowsOf = new WeakMap();

/**
 * Makes the children of `parent` the rows of `items`, in order. A row that is there already stays the same element,
 * so that focus, selection and what is unfolded survive.
 */
export function reconcile(parent, items, keyOf, make, update = () => {}) {
  const old = rowsOf.get(parent) ?? new Map();
  const rows = new Map();
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const row = old.get(key) ?? make(item);
    update(row, item);
    rows.set(key, row);
    if (row === place) place = row.nextElementSibling;
    else parent.insertBefore(row, place);
  }
  for (const [key, row] of old) if (!rows.has(key)) row.remove();
  rowsOf.set(parent, rows);
}
