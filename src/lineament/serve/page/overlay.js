// Faces over a photo, as SVG in the photo's own pixels.

const SVG = "http://www.w3.org/2000/svg";
const [MARGIN, RIM] = [0.03, 0.005]; // of covers: the server's defaults, as shares of the face's sides and of the photo's longer side
const ROOMY = 60; // pixels of the screen: the scores of smaller faces would hide others, and are shown one at a time

function make(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent?.append(element);
  return element;
}

// Draws the faces of a record. `bare` are those that are not covered, `scale` is the number of the photo's pixels per pixel of the screen.
export function drawFaces(svg, record, show, scale, chosen, bare, choose) {
  svg.setAttribute("viewBox", `0 0 ${record.width} ${record.height}`);
  svg.replaceChildren();
  record.faces.forEach((face, index) => {
    const [x1, y1, x2, y2] = face.box;
    const group = make("g", { class: index === chosen ? "face chosen" : "face" }, svg);
    if (show.covers && !bare.has(index)) {
      const radius = (side) => side * (0.5 + MARGIN) + RIM * Math.max(record.width, record.height);
      make("ellipse", { class: "cover", cx: (x1 + x2) / 2, cy: (y1 + y2) / 2, rx: radius(x2 - x1), ry: radius(y2 - y1) }, group);
    }
    if (show.boxes) {
      const place = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
      make("rect", { class: "shade", ...place }, group);
      make("rect", { class: "box", ...place }, group).addEventListener("click", () => choose(index));
    }
    const side = Math.max(x2 - x1, y2 - y1) / scale; // on the screen
    if (show.points) {
      const width = Math.min(Math.max((0.08 * side) / Math.cbrt(face.landmarks.length), 2), 12);
      const path = face.landmarks.filter(Boolean).map(([x, y]) => `M${x} ${y}h0`).join("");
      if (side > 40) make("path", { class: "dot rim", d: path, "stroke-width": width + 2 }, group);
      make("path", { class: "dot", d: path, "stroke-width": width }, group);
    }
    if (show.scores) label(group, face.score.toFixed(2), x1, y1, record, scale, side < ROOMY ? " crowded" : "");
  });
}

function label(group, text, x, y, record, scale, crowded) {
  const size = 13 * scale;
  const width = text.length * size * 0.6 + 8 * scale;
  const height = size * 1.4;
  const left = Math.min(Math.max(x - scale, 0), record.width - width);
  const top = y - height < 0 ? y : y - height;
  make("rect", { class: `plate${crowded}`, x: left, y: top, width, height, rx: 3 * scale }, group);
  make("text", { class: crowded, x: left + 4 * scale, y: top + size * 1.05, "font-size": size }, group).textContent = text;
}
