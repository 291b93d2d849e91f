// The least contrast of text with what lies behind it, by selector, and of the colours of charts with the paper.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = v => v <= 10.3 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
  const ratio = (a, b) => {
    const [x, y] = [light(a), light(b)];
    return (Math.max(x, y) + .05) / (Math.min(x, y) + .05);
  };
  const over = (front, back) => front.slice(0, 3).map((v, i) => v * front[3] / 255 + back[i] * (1 - front[3] / 255));
  const behind = element => {
    const stack = [];
    for (let own = element; own; own = own.parentElement) stack.push(rgb(getComputedStyle(own).backgroundColor));
    return stack.reverse().reduce((back, front) => over(front, back), [255, 255, 255]);
  };
  const told = {};
  for (const name of ["h1", ".claim", "a", "dt", "dd", "dd small", "caption", "thead th", "td", ".id", "figcaption",
                      "label", "input", "output", "pre", "footer", "svg text", ".matrix td"]) {
    for (const element of document.querySelectorAll(name)) {
      const own = getComputedStyle(element);
      const colour = rgb(element.namespaceURI.endsWith("svg") ? own.fill : own.color);
      told[name] = Math.min(told[name] ?? 99, ratio(colour, behind(element)));
    }
  }
  const paper = behind(document.body), root = getComputedStyle(document.documentElement);
  for (const role of ["selected", "random", "full", "gated", "soft"])
    told["--" + role] = ratio(rgb(root.getPropertyValue("--" + role)), paper);
  return told;
}
