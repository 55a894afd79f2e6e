// New elements of the page and of drawings.

export function html(parent, tag, attributes = {}) {
  return filled(parent, document.createElement(tag), attributes);
}

export function svg(parent, tag, attributes = {}) {
  return filled(parent, document.createElementNS("http://www.w3.org/2000/svg", tag), attributes);
}

function filled(parent, element, attributes) {
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}
