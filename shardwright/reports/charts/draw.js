// Draws the charts of a page with ECharts. All figures come from the page's data; nothing here computes a prediction.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const drawn = [];
  let printing = false;

  // -- numbers and colours -------------------------------------------------------------------------------------------
  const digits = value => (value !== 0 && Math.abs(value) < 0.1 ? String(+value.toPrecision(3))
    : Math.abs(value) >= 99.95 ? Math.round(value).toLocaleString("en-US") : value.toFixed(Math.abs(value) >= 9.995 ? 1 : 2));
  const scaled = (value, base, names, unit) => {
    let power = 0;
    while (Math.abs(value) >= base && power < names.length - 1) { value /= base; power += 1; }
    return `${power === 0 && Number.isInteger(value) ? value : digits(value)} ${names[power]}${unit}`.trim();
  };
  const units = {
    s: value => (value === 0 ? "0 s" : Math.abs(value) >= 1 ? `${digits(value)} s`
      : Math.abs(value) >= 1e-3 ? `${digits(value * 1e3)} ms` : `${digits(value * 1e6)} µs`),
    B: value => scaled(value, 1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi"], "B"),
    share: value => `${(100 * value).toFixed(1)}%`,
    "": value => (Math.abs(value) >= 1e4 ? scaled(value, 1000, ["", "k", "M", "G", "T", "P"], "") : String(+value.toPrecision(6))),
  };
  const shown = (value, unit) => units[unit](value);
  const tick = unit => value => shown(+value.toPrecision(4), unit).replace(/\.0+(?= |%|$)|(\.\d*?)0+(?= |$)/, "$1");
  const isDark = () => darkness.matches && !printing;
  const colour = name => page.colours[name][isDark() ? 1 : 0];
  const style = name => getComputedStyle(document.body).getPropertyValue(name).trim();
  const text = () => (printing ? "#000000" : style("--text"));
  const soft = () => (printing ? "#444444" : style("--soft"));
  const line = () => (printing ? "#bbbbbb" : style("--line"));
  const readableOn = fill => {
    const [red, green, blue] = [1, 3, 5].map(place => (parseInt(fill.slice(place, place + 2), 16) / 255) ** 2.2);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.3 ? "#000000" : "#ffffff";
  };
  const escaped = words => { const span = document.createElement("span"); span.textContent = words; return span.innerHTML; };
  const narrow = element => element.clientWidth < 560;

  // -- what all charts share -----------------------------------------------------------------------------------------
  const frame = element => ({
    animation: false,
    aria: { enabled: true, label: { description: element.getAttribute("aria-label") } },
    backgroundColor: "transparent",
    textStyle: { color: text(), fontFamily: getComputedStyle(document.body).fontFamily }, // measured on a canvas, which inherits none
    tooltip: {
      confine: true, backgroundColor: style("--raised"), borderColor: line(), textStyle: { color: style("--text"), fontSize: 12 },
      extraCssText: "white-space:normal;max-width:min(340px,80vw)",
    },
  });
  const legend = (names, element) => ({
    type: "scroll", top: 4, left: 0, right: 0, data: names, itemWidth: 14, itemHeight: 10, itemGap: narrow(element) ? 8 : 14,
    textStyle: { color: text(), fontSize: 12 }, pageTextStyle: { color: soft() }, pageIconColor: soft(),
  });
  const axis = (about, side, element) => ({
    type: about.logarithmic ? "log" : "value", logBase: about.doubling ? 2 : 10, name: about.name, nameLocation: "middle", nameGap: side === "x" ? 28 : narrow(element) ? 46 : 56,
    nameTextStyle: { color: soft() }, axisLabel: { color: soft(), formatter: tick(about.unit), hideOverlap: true, fontSize: 11, showMaxLabel: side === "y" && !about.logarithmic ? false : undefined },
    axisLine: { lineStyle: { color: line() } }, splitLine: { lineStyle: { color: line(), opacity: 0.6 } },
    minorTick: { show: false }, scale: Boolean(about.logarithmic || about.from_data),
  });
  // Ticks of bytes at powers of two: echarts would choose round decimal numbers.
  const interval = (unit, most) => (unit === "B" && most > 0 ? 2 ** Math.ceil(Math.log2(most / 6)) : undefined);
  const bounds = { left: 2, right: 14, outerBoundsMode: "same", outerBoundsContain: "all" }; // room for labels and names
  const wheel = { type: "inside", zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false, preventDefaultMouseMove: false };
  const markLine = (marks, position) => ({
    silent: true, symbol: "none", label: { position, color: text(), fontSize: 11, formatter: at => at.name },
    data: marks,
  });

  // -- stacked bars, one row each ------------------------------------------------------------------------------------
  const bars = (spec, element) => {
    const count = spec.rows.length, total = row => spec.parts.reduce((sum, part) => sum + (part.values[row] ?? 0), 0);
    const largest = Math.max(...spec.rows.map((_, row) => total(row)), ...spec.marks.map(mark => mark.value));
    const labelled = part => spec.share && { show: true, fontSize: 11, color: readableOn(colour(part.colour)),
      formatter: at => (at.value > 0.07 * largest ? shown(at.value / total(at.dataIndex), "share") : "") };
    return {
      ...frame(element),
      legend: legend(spec.parts.map(part => part.name), element),
      grid: { ...bounds, top: spec.marks.length ? 50 : 34, bottom: 4 },
      tooltip: { ...frame(element).tooltip, trigger: "axis", axisPointer: { type: "shadow" }, formatter: all => {
        const row = all[0].dataIndex, parts = all.filter(at => at.value > 0).sort((one, other) => other.value - one.value);
        const lines = parts.map(at => `${at.marker}${escaped(at.seriesName)}: ${shown(at.value, spec.unit)} (${shown(at.value / total(row), "share")})`);
        return [`<b>${escaped(spec.rows[row])}</b>: ${shown(total(row), spec.unit)}`, ...lines].join("<br>");
      } },
      xAxis: { ...axis({ name: spec.axis, unit: spec.unit }, "x", element), max: largest > 0 ? largest * 1.02 : 1, interval: interval(spec.unit, largest), axisLabel: {
        color: soft(), formatter: tick(spec.unit), hideOverlap: true, fontSize: 11, showMaxLabel: false } },
      yAxis: { type: "category", inverse: true, data: spec.rows, axisTick: { show: false }, axisLine: { show: false },
        axisLabel: { color: text(), fontSize: count > 40 ? 9 : 11, lineHeight: 13, width: narrow(element) ? 96 : 260, overflow: "break",
          interval: count > 24 && count * 12 > 600 ? "auto" : 0 } },
      series: spec.parts.map((part, place) => ({
        type: "bar", stack: "all", name: part.name, data: part.values, barWidth: "72%", label: labelled(part) || undefined,
        itemStyle: { color: colour(part.colour), borderColor: printing ? "#ffffff" : style("--page"), borderWidth: count > 40 ? 0 : 0.5 },
        ...(place === 0 && spec.marks.length ? { markLine: markLine(spec.marks.map((mark, index) => ({ name: mark.name, xAxis: mark.value,
          label: { align: index === 0 && spec.marks.length > 1 ? "right" : "center" }, lineStyle: { color: colour(mark.colour), type: "dashed", width: 1.5 } })), "start") } : {}),
      })),
      ...height(element, 84 + count * (count > 24 ? 17 : narrow(element) ? 34 : 28)),
    };
  };

  // -- curves and points ---------------------------------------------------------------------------------------------
  const symbols = ["circle", "rect", "triangle", "diamond", "pin", "arrow", "roundRect", "emptyCircle"];
  const lines = (spec, element) => {
    const loose = spec.curves.some(curve => curve.loose);
    const alone = at => `<b>${escaped(at.seriesName)}</b><br>${escaped(spec.x.name)}: ${shown(at.value[0], spec.x.unit)}<br>${
      escaped(spec.y.name)}: ${shown(at.value[1], spec.y.unit)}${at.value[2] ? `<br>${escaped(at.value[2])}` : ""}`;
    const point = at => `${at.marker}${escaped(at.seriesName)}: ${shown(at.value[1], spec.y.unit)}${at.value[2] ? ` (${escaped(at.value[2])})` : ""}`;
    return {
      ...frame(element),
      legend: legend(spec.curves.map(curve => curve.name), element),
      grid: { ...bounds, top: 40, bottom: 34 },
      tooltip: loose ? { ...frame(element).tooltip, formatter: alone } : { ...frame(element).tooltip, trigger: "axis", formatter: all => [
        `<b>${escaped(spec.x.name)} ${shown(all[0].value[0], spec.x.unit)}</b>`, ...all.filter(at => at.value[1] != null).map(point)].join("<br>") },
      xAxis: { ...axis(spec.x, "x", element), min: "dataMin", max: "dataMax" },
      yAxis: { ...axis(spec.y, "y", element), ...(spec.y.logarithmic || spec.y.from_data ? {} : { interval: interval(spec.y.unit, highest(spec)), max: highest(spec) * 1.04 }) },
      dataZoom: [{ ...wheel, xAxisIndex: 0, filterMode: "none" }, slider(element)],
      series: spec.curves.map((curve, place) => ({
        type: curve.loose ? "scatter" : "line", name: curve.name, data: curve.points, step: curve.stepped ? "end" : false, connectNulls: false,
        stack: curve.stacked ? "all" : undefined, areaStyle: curve.stacked ? { opacity: 0.9 } : undefined,
        symbol: !curve.loose && (curve.points.length > 80 || curve.stacked || loose) ? "none" : symbols[(place + Math.floor(place / 8)) % symbols.length],
        symbolSize: 7, itemStyle: { opacity: curve.loose ? 0.75 : 1 },
        lineStyle: { width: curve.stacked ? 0 : 1.8, type: curve.dashed ? "dashed" : "solid" }, color: colour(curve.colour),
        ...(place === 0 && spec.marks.length ? { markLine: markLine(spec.marks.map(mark => ({ name: mark.name, yAxis: mark.value,
          lineStyle: { color: colour(mark.colour), type: "dashed", width: 1.5 } })), "insideEndTop") } : {}),
      })),
      ...height(element, narrow(element) ? 320 : 340),
    };
  };
  const strips = (spec, element) => {
    const names = spec.strips.map(strip => strip.name), dots = spec.strips.flatMap((strip, row) => strip.values.map(([value, words], place) => ({
      value: [value, row], words, symbolOffset: [0, ((7 * place) % 11 - 5) * 1.1] }))); // spread, so that equal values do not hide each other
    const box = spec.strips.map(strip => ({ value: strip.quartiles, itemStyle: { opacity: strip.values.length > 3 ? 1 : 0 } }));
    return {
      ...frame(element),
      grid: { ...bounds, top: 8, bottom: 34 },
      tooltip: { ...frame(element).tooltip, formatter: at => (at.seriesType === "boxplot"
        ? `<b>${escaped(at.name)}</b><br>median ${shown(at.value[3], spec.x.unit)}, half of them from ${shown(at.value[2], spec.x.unit)} to ${shown(at.value[4], spec.x.unit)}`
        : `<b>${escaped(at.data.words)}</b><br>${shown(at.value[0], spec.x.unit)}`) },
      xAxis: axis({ ...spec.x, from_data: true }, "x", element),
      yAxis: { type: "category", inverse: true, data: names, axisTick: { show: false }, axisLine: { show: false },
        axisLabel: { color: text(), fontSize: 11, lineHeight: 13, width: narrow(element) ? 96 : 330, overflow: narrow(element) ? "truncate" : "break", interval: 0 } },
      dataZoom: [{ ...wheel, xAxisIndex: 0, filterMode: "none" }, slider(element)],
      series: [
        { type: "boxplot", data: box, boxWidth: ["50%", "70%"], itemStyle: { color: "transparent", borderColor: colour("other"), borderWidth: 1.2 } },
        { type: "scatter", data: dots, symbolSize: 5, color: colour("series0"), itemStyle: { opacity: 0.65 },
          markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: line(), type: "solid" }, data: [{ xAxis: 0 }] } },
      ],
      ...height(element, 84 + names.length * (narrow(element) ? 26 : 24)),
    };
  };
  const highest = spec => Math.max(...spec.marks.map(mark => mark.value), spec.curves.some(curve => curve.stacked)
    ? spec.curves.reduce((sum, curve) => sum + Math.max(...curve.points.map(point => point[1])), 0)
    : Math.max(...spec.curves.flatMap(curve => curve.points.map(point => point[1] ?? 0))));
  const points = (spec, element) => ({
    ...frame(element),
    legend: legend(spec.groups.map(group => group.name), element),
    grid: { ...bounds, top: 40, bottom: 4 },
    tooltip: { ...frame(element).tooltip, formatter: at => (at.seriesType === "line" ? "" : `<b>${escaped(at.data.name)}</b><br>${
      escaped(spec.x.name)}: ${shown(at.value[0], spec.x.unit)}<br>${escaped(spec.y.name)}: ${shown(at.value[1], spec.y.unit)}<br>${escaped(at.data.words)}`) },
    xAxis: axis({ ...spec.x, from_data: true }, "x", element),
    yAxis: axis({ ...spec.y, from_data: true }, "y", element),
    dataZoom: [{ ...wheel, xAxisIndex: 0, filterMode: "none" }],
    series: [
      { type: "line", data: spec.front, symbol: "none", silent: true, step: "end", lineStyle: { color: colour("chosen"), width: 1, type: "dotted" } },
      ...spec.groups.map(group => ({
        type: "scatter", name: group.name, symbolSize: 24, color: colour(group.colour), data: group.points.map(one => ({
          value: [one.x, one.y], name: one.name, words: one.words, label: { show: true, formatter: one.mark, fontSize: 11,
            color: readableOn(colour(group.colour)) } })),
      })),
    ],
    ...height(element, narrow(element) ? 340 : 380),
  });
  const slider = element => ({
    type: "slider", xAxisIndex: 0, height: 18, bottom: 6, filterMode: "none", showDetail: false, brushSelect: false,
    borderColor: line(), fillerColor: isDark() ? "rgba(150,170,190,.25)" : "rgba(80,110,140,.16)", handleSize: narrow(element) ? "180%" : "120%",
    dataBackground: { lineStyle: { opacity: 0 }, areaStyle: { opacity: 0 } }, selectedDataBackground: { lineStyle: { opacity: 0 }, areaStyle: { opacity: 0 } },
  });
  const height = (element, pixels) => { element.style.height = `${pixels}px`; return {}; };

  // -- memory of one pipeline rank over the step ---------------------------------------------------------------------
  const memory = (spec, element) => {
    const control = element.previousElementSibling.querySelector("select");
    const rank = spec.ranks[control ? control.selectedIndex : 0];
    if (control && !control.onchange) control.onchange = () => redraw(drawn.find(one => one.element === element));
    const times = [...rank.seconds, spec.seconds];
    const flat = rank.held.map(([part, size]) => ({ ...part, stacked: true, points: times.map(time => [time, size]) }));
    const moving = { ...spec.moving, stacked: true, stepped: true, points: times.map((time, place) => [time, rank.moving[Math.min(place, rank.moving.length - 1)]]) };
    return lines({ x: { name: "", unit: "s" }, y: { name: "", unit: "B" }, curves: [...flat, moving], marks: rank.marks }, element);
  };

  // -- the timeline: from the whole step to one layer ----------------------------------------------------------------
  const decoded = spec => {
    if (spec.lanes[0].starts) return;
    for (const lane of spec.lanes) {
      let end = 0;
      lane.starts = lane.gaps.map((gap, place) => { const start = end + gap; end = start + spec.works[lane.works[place]].ticks; return start; });
    }
  };
  const passWords = pass => `${page.names[pass.kind]}${pass.stage === null ? "" : ` of stage ${pass.stage}`}`;
  // Shares of time by kind in bins of some pixels: what a lane shows where its blocks are too narrow to be told apart.
  const binned = (spec, lane, from, to, bins, add) => {
    const width = (to - from) / bins, sums = Array.from({ length: bins }, () => ({}));
    for (let place = 0; place < lane.starts.length; place += 1) {
      const work = spec.works[lane.works[place]], start = lane.starts[place], end = start + work.ticks;
      if (end <= from || start >= to) continue;
      for (let bin = Math.max(0, Math.floor((start - from) / width)); bin < bins && from + bin * width < end; bin += 1) {
        const inside = Math.min(end, from + (bin + 1) * width) - Math.max(start, from + bin * width);
        for (const pass of work.passes) sums[bin][pass.kind] = (sums[bin][pass.kind] ?? 0) + inside / work.passes.length;
      }
    }
    sums.forEach((sum, bin) => {
      let top = 0;
      const start = from + bin * width, words = Object.entries(sum).map(([kind, ticks]) => `${page.names[kind]} ${shown(ticks / width, "share")}`);
      const busy = Object.values(sum).reduce((all, one) => all + one, 0) / width;
      if (busy < 0.999) words.push(`waits ${shown(Math.max(0, 1 - busy), "share")}`);
      for (const kind of spec.order.filter(one => sum[one])) {
        add({ row: lane.row, from: start, to: start + width, top: 0.06 + 0.82 * top, high: 0.82 * sum[kind] / width, colour: kind, joined: true, words: words.join("<br>") });
        top += sum[kind] / width;
      }
      if (top < 0.999) add({ row: lane.row, from: start, to: start + width, top: 0.06 + 0.82 * top, high: 0.82 * (1 - top), colour: "pipeline_bubble", joined: true, words: words.join("<br>") });
    });
  };
  // The layers of one pass and what each spends its time on, in the place of its block.
  const inside = (spec, pass, lane, start, ticks, top, high, window, add) => {
    const whole = pass.parts.reduce((sum, part) => sum + part.count * part.seconds.reduce((all, [, one]) => all + one, 0), 0);
    const scale = ticks / whole;
    let at = start;
    for (const part of pass.parts) {
      const one = part.seconds.reduce((all, [, seconds]) => all + seconds, 0) * scale;
      const single = one * window.pixels > 8, repeats = single ? part.count : 1;
      for (let layer = 0; layer < repeats; layer += 1) {
        const name = part.layer === null ? part.name : single ? `layer ${part.layer + layer}` : `layers ${part.layer} to ${part.layer + part.count - 1}`;
        const length = single ? one * Math.min(1, part.count - layer) : one * part.count;
        let inner = at;
        if (at < window.to && at + length > window.from) for (const [cause, seconds] of part.seconds) {
          const wide = seconds * scale * (length / one);
          add({ row: lane.row, from: inner, to: inner + wide, top: top + 0.37 * high, high: 0.63 * high, colour: cause, label: page.names[cause],
            words: `${escaped(name)}, ${passWords(pass)}<br>${page.names[cause]}: ${shown(wide * spec.tick, "s")}${part.recompute === "none" ? "" : `<br>recompute: ${part.recompute}`}` });
          inner += wide;
        }
        if (single && at < window.to && at + length > window.from) add({ row: lane.row, from: at, to: at + length, top, high: 0.35 * high, colour: pass.kind, label: name, words: `${escaped(name)}: ${shown(length * spec.tick, "s")}` });
        at += length;
      }
    }
  };
  const blocks = (spec, from, to, width) => {
    const found = [], add = block => found.push(block), window = { from, to, pixels: width / (to - from) };
    for (const lane of spec.lanes) {
      let first = 0, last = lane.starts.length;
      while (first < last && lane.starts[first] + spec.works[lane.works[first]].ticks < from) first += 1;
      while (last > first && lane.starts[last - 1] > to) last -= 1;
      if (lane.kind === "work" && last - first > width / 4) { binned(spec, lane, from, to, Math.min(Math.floor(width / 5), Math.ceil((last - first) / 12)), add); continue; }
      if (last - first > width / 4) continue;
      let end = first ? lane.starts[first - 1] + spec.works[lane.works[first - 1]].ticks : 0;
      for (let place = first; place < last; place += 1) {
        const work = spec.works[lane.works[place]], start = lane.starts[place], pixels = work.ticks * window.pixels;
        if (lane.kind === "work" && start > end) add({ row: lane.row, from: end, to: start, top: 0.06, high: 0.82, colour: "pipeline_bubble", label: "waits", words: `waits ${shown((start - end) * spec.tick, "s")} for other stages` });
        end = start + work.ticks;
        work.passes.forEach((pass, half) => {
          const microbatch = half ? lane.others[place] : lane.microbatches[place], each = 0.82 / work.passes.length;
          const top = lane.kind === "send" ? 0.9 : 0.06 + half * each, high = lane.kind === "send" ? 0.1 : each;
          const words = `${passWords(pass)}${microbatch < 0 ? "" : `, microbatch ${microbatch}`}: ${shown(work.ticks * spec.tick, "s")}<br>from ${shown(start * spec.tick, "s")} to ${shown(end * spec.tick, "s")}`;
          const open = pass.parts.length && pixels > 150 && spec.rowPixels * each > 24;
          const label = microbatch < 0 ? page.names[pass.kind] : `${page.names[pass.kind]} of microbatch ${microbatch}`;
          add({ row: lane.row, from: start, to: end, top, high: open ? 0.29 * high : high, colour: pass.kind, label, short: microbatch < 0 ? "" : String(microbatch), words, faint: microbatch % 2 === 1 });
          if (open) inside(spec, pass, lane, start, work.ticks, top + 0.3 * high, 0.7 * high, window, add);
        });
      }
      if (lane.kind === "work" && last === lane.starts.length && end < Math.min(to, spec.ticks)) add({ row: lane.row, from: end, to: spec.ticks, top: 0.06, high: 0.82, colour: "pipeline_bubble", label: "waits", words: `waits ${shown((spec.ticks - end) * spec.tick, "s")} for other ranks` });
    }
    return found;
  };
  const timeline = (spec, element, one) => {
    decoded(spec);
    const [from, to] = one.window ?? [0, spec.ticks], few = spec.rows.length <= 4;
    spec.rowPixels = few ? 96 : spec.rows.length <= 16 ? 44 : 26;
    const width = element.clientWidth - (narrow(element) ? 64 : 110);
    const decimals = Math.min(9, Math.max(0, Math.ceil(-Math.log10((to - from) * spec.tick / 40))));
    const moment = value => `${(value * spec.tick).toFixed(decimals)} s`;
    const found = blocks(spec, from, to, width);
    one.zoom = (start, end) => { one.window = [Math.max(0, start), Math.min(spec.ticks, end)]; redraw(one); };
    if (!one.buttons) one.buttons = buttons(spec, element, one);
    return {
      ...frame(element),
      tooltip: { ...frame(element).tooltip, formatter: at => `<b>${escaped(spec.rows[found[at.dataIndex].row])}</b><br>${found[at.dataIndex].words}` },
      grid: { left: narrow(element) ? 56 : 100, right: 10, top: 8, bottom: 62 },
      xAxis: { type: "value", min: 0, max: spec.ticks, axisLabel: { color: soft(), fontSize: 11, hideOverlap: true, formatter: moment },
        axisLine: { lineStyle: { color: line() } }, splitLine: { show: false } },
      yAxis: { type: "category", inverse: true, data: spec.rows, axisTick: { show: false }, axisLine: { show: false },
        axisLabel: { color: text(), fontSize: 11, interval: 0, width: narrow(element) ? 50 : 92, overflow: "truncate", formatter: name => (narrow(element) ? name.replace("rank ", "") : name) } },
      dataZoom: [{ ...wheel, xAxisIndex: 0, filterMode: "none", startValue: from, endValue: to, minValueSpan: spec.ticks / 1e6 },
        { ...slider(element), startValue: from, endValue: to, minValueSpan: spec.ticks / 1e6 }],
      series: [{ type: "custom", progressive: 0, data: found.map(block => [block.from, block.row, block.to]), encode: { x: [0, 2], y: 1 }, clip: true, renderItem: (at, api) => {
        const block = found[at.dataIndex], [left, middle] = api.coord([block.from, block.row]), right = api.coord([block.to, block.row])[0];
        const row = api.size([0, 1])[1], area = at.coordSys, fill = colour(block.colour);
        const start = Math.max(left, area.x), wide = Math.min(right, area.x + area.width) - start;
        if (wide <= 0) return null;
        const shape = { x: start, y: middle - row / 2 + block.top * row, width: Math.max(wide - (wide > 3 && !block.joined ? 0.6 : 0), 0.4), height: block.high * row };
        const label = shape.height > 8 && [block.label, block.short].find(words => words && wide > 6.2 * words.length + 4);
        return { type: "rect", shape, style: { fill, opacity: block.faint ? 0.82 : 1 }, ...(label ? { textContent: { type: "text", style: { text: label,
          fill: readableOn(fill), fontSize: Math.min(11, shape.height - 1) } }, textConfig: { position: "inside" } } : {}) };
      } }],
      ...height(element, 74 + spec.rows.length * spec.rowPixels),
    };
  };
  const buttons = (spec, element, one) => {
    const bar = element.previousElementSibling, middle = spec.lanes.find(lane => lane.row === Math.floor(spec.rows.length / 2)) ?? spec.lanes[0];
    const place = Math.floor(middle.starts.length / 2), start = middle.starts[place], work = spec.works[middle.works[place]];
    const part = work.passes[0].parts.find(each => each.layer !== null), seconds = part ? part.seconds.reduce((sum, [, each]) => sum + each, 0) : 0;
    const longest = Math.max(...spec.works.map(each => each.ticks));
    const windows = {
      "Whole step": [0, spec.ticks], Start: [0, Math.min(spec.ticks, (spec.rows.length + 4) * longest)],
      End: [Math.max(0, spec.ticks - (spec.rows.length + 4) * longest), spec.ticks],
      "A few passes": [start - 3 * work.ticks, start + 4 * work.ticks], "One pass": [start - 0.02 * work.ticks, start + 1.02 * work.ticks],
      ...(part ? { "One layer": (layer => [layer - 0.05 * seconds / spec.tick, layer + 1.05 * seconds / spec.tick])(offset(work, part, start, spec)) } : {}),
    };
    for (const [name, [from, to]] of Object.entries(windows)) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.onclick = () => one.zoom(from, to);
      bar.append(button);
    }
    return true;
  };
  const offset = (work, part, start, spec) => {
    const parts = work.passes[0].parts, length = each => each.count * each.seconds.reduce((sum, [, one]) => sum + one, 0);
    const before = parts.slice(0, parts.indexOf(part)).reduce((sum, each) => sum + length(each), 0);
    return start + before / spec.tick;
  };

  // -- drawing, and drawing again ------------------------------------------------------------------------------------
  const kinds = { bars, lines, strips, points, memory, timeline };
  const redraw = one => {
    const option = kinds[one.spec.kind](one.spec, one.element, one);
    one.chart.resize();
    one.chart.setOption(option, { notMerge: true });
  };
  for (const element of document.querySelectorAll("[data-chart]")) {
    const spec = page.charts[element.dataset.chart], one = { element, spec, width: 0 };
    const option = kinds[spec.kind](spec, element, one); // sets the height that the chart begins with
    one.chart = echarts.init(element, null, { renderer: spec.kind === "timeline" ? "canvas" : "svg" });
    one.chart.setOption(option);
    one.width = element.clientWidth;
    drawn.push(one);
    if (spec.kind === "timeline") {
      let waiting = 0;
      one.chart.on("datazoom", () => {
        const { startValue, endValue } = one.chart.getOption().dataZoom[0];
        if (one.window && one.window[0] === startValue && one.window[1] === endValue) return;
        one.window = [startValue, endValue];
        cancelAnimationFrame(waiting);
        waiting = requestAnimationFrame(() => redraw(one));
      });
    }
  }
  const redrawAll = () => drawn.forEach(redraw);
  darkness.addEventListener("change", redrawAll);
  addEventListener("resize", () => drawn.forEach(one => {
    if (one.element.clientWidth !== one.width) { one.width = one.element.clientWidth; redraw(one); }
  }));
  const print = on => { if (printing !== on) { printing = on; redrawAll(); } };
  matchMedia("print").addEventListener("change", event => print(event.matches));
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
})();
