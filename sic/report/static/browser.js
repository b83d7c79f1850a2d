// The picture browser: two pictures of one scene on top of each other, a slider moves the edge
// between them.  Works from a file, without a server.  `scenes` is what sic/report/pages.py wrote.
function browse(root, scenes) {
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const [scene, left, right, zoom, slider] =
    ["scene", "left", "right", "zoom", "slider"].map(part);
  const [stage, under, over, edge] = ["stage", "under", "over", "edge"].map(part);

  const shown = () => scenes[scene.selectedIndex];

  function fill(select, labels, index) {
    select.replaceChildren(...labels.map((label) => new Option(label)));
    select.selectedIndex = index;
  }

  function chooseScene() {
    // The same pictures of the next scene, so that one codec can be followed through all.
    const labels = shown().pictures.map((picture) => picture.label);
    fill(left, labels, Math.max(left.selectedIndex, 0));
    fill(right, labels, right.selectedIndex < 0 ? labels.length - 1 : right.selectedIndex);
    choosePictures();
  }

  function choosePictures() {
    for (const [select, image] of [[left, over], [right, under]]) {
      const picture = shown().pictures[select.selectedIndex];
      image.src = picture.file;
      image.alt = `${shown().name}, ${picture.label}`;
    }
    size();
    move();
  }

  function size() {
    const { width, height } = shown();
    stage.style.aspectRatio = `${width} / ${height}`;
    stage.style.width = zoom.value === "fit" ? `min(100%, ${width}px)` : `${width * zoom.value}px`;
    stage.classList.toggle("pixels", zoom.value !== "fit");
  }

  function move() {
    over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
    edge.style.left = `${slider.value}%`;
    slider.setAttribute("aria-valuetext", `left picture on ${slider.value} % of the width`);
  }

  // Pointers move the edge on the picture itself, too; a touch that scrolls stays a scroll.
  function drag(event) {
    if (event.buttons !== 1) return;
    const box = stage.getBoundingClientRect();
    slider.value = (100 * (event.clientX - box.left)) / box.width;
    move();
  }

  fill(scene, scenes.map((s) => s.name), 0);
  chooseScene();
  scene.addEventListener("change", chooseScene);
  for (const select of [left, right]) select.addEventListener("change", choosePictures);
  zoom.addEventListener("change", size);
  slider.addEventListener("input", move);
  for (const event of ["pointerdown", "pointermove"]) stage.addEventListener(event, drag);
}
