"use strict";
// Images are embedded once, as text; everything that shows them is made here.
const AMPLIFY = 4;
const MARKS = {plan: "◆", forecast: "●", sampler: "□"};

function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function words(cell) {
  return cell.psnr + ", seed " + cell.seed + ", " + cell.prompt;
}

// |image - reference|, amplified, once both are decoded.
async function difference(canvas, one, other) {
  try {
    await Promise.all([one.decode(), other.decode()]);
    const {naturalWidth: width, naturalHeight: height} = other;
    if (one.naturalWidth !== width || one.naturalHeight !== height) return;
    canvas.width = width;
    canvas.height = height;
    const brush = canvas.getContext("2d", {willReadFrequently: true});
    const read = (image) => {
      brush.drawImage(image, 0, 0);
      return brush.getImageData(0, 0, width, height);
    };
    const a = read(one), b = read(other);
    for (let i = 0; i < a.data.length; i += 4) {
      for (let c = 0; c < 3; c++) a.data[i + c] = Math.min(255, AMPLIFY * Math.abs(a.data[i + c] - b.data[i + c]));
      a.data[i + 3] = 255;
    }
    brush.putImageData(a, 0, 0);
  } catch (error) {
    canvas.closest("figure").hidden = true; // a broken image has no difference
  }
}

function labelled(image, text) {
  return make("figure", {}, image, make("figcaption", {}, text));
}

class Gallery {
  constructor(root) {
    this.root = root;
    this.data = JSON.parse(root.querySelector("script").textContent);
    this.grid = root.querySelector(".grid");
    this.choice = root.querySelector("select");
    this.slider = root.querySelector(".slider");
    this.range = root.querySelector("input[type=range]");
    this.data.methods.forEach((method, i) => {
      this.choice.append(make("option", {value: i}, (MARKS[method.kind] || "") + " " + method.label));
    });
    this.choice.addEventListener("change", () => this.show(Number(this.choice.value)));
    this.range.addEventListener("input", () => this.cut());
    this.show(0);
  }

  image(place, alt) {
    return make("img", {src: this.data.images[place], alt: alt, decoding: "async"});
  }

  show(number) {
    const method = this.data.methods[number];
    this.method = method;
    this.root.querySelector(".shown").textContent = method.label;
    this.grid.replaceChildren(...method.cells.map((cell) => this.card(cell)));
    const first = method.cells.findIndex((cell) => cell.reference !== null && !cell.video);
    this.slider.hidden = first < 0;
    if (first >= 0) this.open(first);
  }

  card(cell) {
    const image = this.image(cell.image, words(cell));
    const row = make("div", {class: "row"});
    if (cell.reference !== null) {
      const reference = this.image(cell.reference, "the unaccelerated run, seed " + cell.seed);
      row.append(labelled(reference, "reference"), labelled(image, "method"));
      if (!cell.video) {
        const canvas = make("canvas", {role: "img", "aria-label": AMPLIFY + " times the difference"});
        row.append(labelled(canvas, AMPLIFY + " × |difference|"));
        difference(canvas, image, reference);
      }
    } else {
      row.append(labelled(image, "method"));
    }
    const text = make("p", {}, make("strong", {}, cell.psnr), " seed " + cell.seed, make("br"), cell.prompt);
    const card = make("li", {class: "card"}, row, text);
    if (cell.reference !== null && !cell.video) {
      const place = this.method.cells.indexOf(cell);
      const button = make("button", {type: "button", "aria-pressed": "false"}, "compare");
      button.addEventListener("click", () => {
        this.open(place);
        this.slider.scrollIntoView({block: "nearest"});
        this.range.focus({preventScroll: true});
      });
      row.addEventListener("click", () => button.click());
      text.append(" ", button);
    }
    return card;
  }

  open(place) {
    const cell = this.method.cells[place];
    this.grid.querySelectorAll(".card").forEach((card, i) => {
      card.classList.toggle("open", i === place);
      const button = card.querySelector("button");
      if (button) button.setAttribute("aria-pressed", String(i === place));
    });
    const [under, over] = this.slider.querySelectorAll(".stack img");
    under.src = this.data.images[cell.image];
    under.alt = this.method.label;
    over.src = this.data.images[cell.reference];
    over.alt = "the unaccelerated run";
    this.slider.querySelector("figcaption").textContent = words(cell);
    this.slider.querySelector(".right").textContent = this.method.label;
    this.cut();
  }

  cut() {
    this.slider.querySelector(".stack").style.setProperty("--cut", this.range.value + "%");
  }
}

document.querySelectorAll(".gallery").forEach((root) => new Gallery(root));

// Paper cannot be opened: everything folded is opened for it, and folded again afterwards.
const opened = [];
function unfold() {
  document.querySelectorAll("details:not([open])").forEach((each) => {
    each.open = true;
    opened.push(each);
  });
}
function fold() {
  while (opened.length) opened.pop().open = false;
}
addEventListener("beforeprint", unfold);
addEventListener("afterprint", fold);
