// What the sample browser draws on a canvas of `width` x `height` pixels, each part by itself; it knows no sample.
"use strict";

const biaslabDrawing = (function () {
  /** Fade what no kept token shows, and outline kept cells; `part` tells tokens of tiles from those of the thumbnail. */
  function paintKept(context, layout, kept, part, width, height) {
    context.save();
    context.beginPath();
    context.rect(0, 0, width, height);
    layout.cells.forEach(([x0, y0, x1, y1], i) => {
      if (kept[i] && layout.thumbnail[i] === part)
        context.rect(x1 * width, y0 * height, (x0 - x1) * width, (y1 - y0) * height);
    });
    context.fillStyle = "rgba(250, 250, 250, 0.8)";
    context.fill("nonzero"); // cells run the other way round: they stay clear
    if (!kept.every((value) => value)) {
      context.strokeStyle = "rgba(20, 20, 20, 0.75)";
      context.lineWidth = Math.max(width / 448, 0.5);
      layout.cells.forEach(([x0, y0, x1, y1], i) => {
        if (kept[i] && layout.thumbnail[i] === part)
          context.strokeRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
      });
    }
    context.restore();
  }

  // light yellow to dark violet: lightness falls steadily, so that it reads without colour too
  const RAMP = [[255, 247, 188], [254, 196, 79], [236, 112, 20], [153, 52, 4], [63, 0, 60]];
  function rampColour(share) {
    const x = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1);
    const i = Math.min(Math.floor(x), RAMP.length - 2);
    return RAMP[i].map((c, k) => Math.round(c + (x - i) * (RAMP[i + 1][k] - c)));
  }

  function paintAttention(context, layout, values, part, width, height) {
    const mine = values.filter((_, i) => layout.thumbnail[i] === part).sort();
    const top = mine[Math.floor(0.99 * (mine.length - 1))] || mine[mine.length - 1] || 1; // one sink must not hide the rest
    layout.cells.forEach(([x0, y0, x1, y1], i) => {
      if (layout.thumbnail[i] !== part) return;
      const share = values[i] / top;
      const [r, g, b] = rampColour(share);
      context.fillStyle = `rgba(${r}, ${g}, ${b}, ${0.25 + 0.55 * Math.min(share, 1)})`;
      context.fillRect(x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height);
    });
  }

  function paintBox(context, box, size, width, height, colour, dashed) {
    const [x0, y0, x1, y1] = [
      (box[0] / size[0]) * width, (box[1] / size[1]) * height,
      (box[2] / size[0]) * width, (box[3] / size[1]) * height,
    ];
    const line = Math.max(width / 160, 1.5);
    context.save();
    context.lineWidth = line + 2;
    context.strokeStyle = "white";
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.lineWidth = line;
    context.strokeStyle = colour;
    if (dashed) context.setLineDash([3 * line, 2 * line]);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.restore();
  }

  return { paintKept, paintAttention, paintBox };
})();
