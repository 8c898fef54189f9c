"use strict";
(function () {
  var format = function (value) {
    if (value >= 1000) return Math.round(value).toLocaleString("en");
    return value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(2) : String(+value.toPrecision(4));
  };
  document.querySelectorAll(".plot").forEach(function (plot) {
    var points = JSON.parse(plot.dataset.points), names = JSON.parse(plot.dataset.names);
    var x = JSON.parse(plot.dataset.x), log = plot.dataset.axis === "log";
    var frame = plot.querySelector(".frame"), cursor = plot.querySelector(".cursor");
    var readout = plot.closest(".charts, figure").parentElement.closest(".charts") || plot.closest("figure");
    readout = readout.querySelector(".readout");
    var place = function (step) {
      return log ? Math.log(Math.max(step, x[0]) / x[0]) / Math.log(x[1] / x[0]) : (step - x[0]) / (x[1] - x[0]);
    };
    if (!points.length || !readout) return;
    frame.addEventListener("pointermove", function (event) {
      var box = frame.getBoundingClientRect(), at = (event.clientX - box.left) / box.width;
      var near = points.reduce(function (best, point) {
        return Math.abs(place(point[0]) - at) < Math.abs(place(best[0]) - at) ? point : best;
      });
      cursor.hidden = false;
      cursor.style.left = 100 * place(near[0]) + "%";
      readout.textContent = (plot.dataset.unit + " " + near[0].toLocaleString("en")).trim() + names.map(function (name, index) {
        var value = near[index + 1];
        // Between two validations, the last one holds.
        for (var back = points.indexOf(near); value === null && index > 1 && back >= 0; back--) value = points[back][index + 1];
        return value === null || value === undefined ? "" : " · " + name + " " + format(value);
      }).join("");
    });
    frame.addEventListener("pointerleave", function () {
      cursor.hidden = true;
      readout.textContent = "";
    });
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details:not(.endless)").forEach(function (details) { details.open = true; });
  });
})();
