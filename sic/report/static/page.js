// What is wider than its box scrolls there; a line above it says so, for keys and screen readers too.
const boxes = document.querySelectorAll(".output_html, .output_markdown, .output_png, .wide");
for (const box of boxes) {
  if (box.querySelector(".wide, .browser, #plot")) continue;
  const mark = () => {
    const hidden = box.scrollWidth - box.clientWidth;
    box.classList.toggle("scrolls", hidden > 1);
    box.classList.toggle("more", hidden - box.scrollLeft > 1);
    if (hidden > 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  box.addEventListener("scroll", mark);
  new ResizeObserver(mark).observe(box);
  for (const image of box.querySelectorAll("img")) image.addEventListener("load", mark);
}
