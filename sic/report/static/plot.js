// The interactive rate-distortion plot: two choices swap what its curves show.
// `curves` has, by photo and curve, the columns that sic/report/pages.py wrote.
async function plot(root, item, curves) {
  const [photo, rate] = ["photo", "rate"].map((name) => root.querySelector(`[data-part=${name}]`));
  // The place of the plot is a child of the page's text: as wide as that, never wider.
  const views = await Bokeh.embed.embed_item(item, root.querySelector("[data-part=plot]"));
  const model = views.roots[0].model.document;

  function show() {
    for (const [name, columns] of Object.entries(curves[photo.value])) {
      const source = model.get_model_by_name(name);
      source.data = { ...columns, rate: columns[rate.value] };
    }
    const axis = model.get_model_by_name("rate axis");
    axis.axis_label = rate.selectedOptions[0].text;
  }

  function toggle(event) {
    for (const part of ["line", "marks"]) {
      const drawn = model.get_model_by_name(`${event.target.dataset.curve} ${part}`);
      drawn.visible = event.target.checked;
    }
  }

  for (const box of root.querySelectorAll("[data-curve]")) box.addEventListener("change", toggle);
  for (const choice of [photo, rate]) choice.addEventListener("change", show);
  root.dataset.ready = "yes";
}
