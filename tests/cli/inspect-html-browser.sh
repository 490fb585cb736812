# The page of --html in a real browser: the map is drawn, tables sort, both
# colour schemes work, and what a hostile checkpoint says stays text.
. "$ROOT/tests/cli/lib"
for browser in chromium chromium-browser google-chrome chrome ''; do
	command -v "${browser:-none}" >/dev/null && break
done
[ -n "$browser" ] || skip "no Chromium here"
export HOME="$PWD"
page() { # FILE OPTION...: the document after its scripts have run
	file=$1
	shift
	timeout 120 "$browser" --headless --no-sandbox --disable-gpu \
		--user-data-dir="$PWD/profile" --virtual-time-budget=2000 "$@" \
		--dump-dom "file://$PWD/$file" 2>log
}
# ask FILE SCRIPT OPTION...: what a script behind the page's own finds
ask() {
	file=$1 script=$2
	shift 2
	cat "$file" >ask.html
	printf '<p id="answer"></p><script>try { answer.textContent = (function () { %s })(); } catch (e) { answer.textContent = e; }</script>\n' \
		"$script" >>ask.html
	page ask.html "$@" | sed -n 's/.*<p id="answer">\([^<]*\)<.*/\1/p'
}
gptq-inspect "$Q" --html q.html --stats --diff "$T"
page q.html >dom || skip "$browser does not run here: $(tail -n 1 log)"
[ -s dom ] || skip "$browser does not run here: $(tail -n 1 log)"

echo "-- the map"
ask q.html 'return [document.querySelectorAll(".map tbody td:not(.none)").length,
	document.querySelectorAll(".map tbody tr").length,
	document.querySelectorAll(".map thead th").length,
	document.querySelector("#by input:checked").value,
	getComputedStyle(document.getElementById("atlas")).display].join(" ");'
# each choice has colours of its own, and says what they mean
ask q.html 'return Array.from(document.querySelectorAll("#by input")).map(function (i) {
	i.click();
	var c = new Set(Array.from(document.querySelectorAll(".map tbody td:not(.none)")).map(
		function (td) { return getComputedStyle(td).backgroundColor; }));
	return i.value + (c.size > 1 ? " colours" : " one colour") +
		(document.getElementById("key").children.length ? "" : " no key");
}).join(", ");'
ask q.html 'document.getElementById("map").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
	document.getElementById("map").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
	document.getElementById("map").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown" }));
	return document.getElementById("says").textContent.split(":")[0] + ", " +
		document.querySelectorAll(".map .at").length + " marked";'

echo "-- tables sort, by numbers and by words"
ask q.html 'var heads = Array.from(document.querySelectorAll("#layers thead th"));
	var at = function (n) { return heads.findIndex(function (h) { return h.textContent === n; }); };
	var column = function (n) { return Array.from(document.getElementById("layers").tBodies[0].rows).map(
		function (r) { return r.cells[at(n)].dataset.v || r.cells[at(n)].textContent; }); };
	var grows = function (n) { var v = column(n).map(Number).filter(isFinite);
		return v.length > 40 && v.every(function (x, i) { return !i || v[i - 1] <= x; }); };
	var out = [];
	["error", "bytes", "scale"].forEach(function (n) {
		var button = heads[at(n)].querySelector("button");
		button.click();
		out.push(n, grows(n), heads[at(n)].getAttribute("aria-sort"));
		button.click();
		out.push(grows(n), heads[at(n)].getAttribute("aria-sort"));
	});
	heads[0].querySelector("button").click();
	out.push(column("layer")[2], document.querySelectorAll("#layers [aria-sort]").length);
	return out.join(" ");'
ask q.html 'var find = document.getElementById("find");
	find.value = "4.MLP";
	find.dispatchEvent(new Event("input"));
	return Array.from(document.querySelectorAll("#layers tbody tr")).filter(
		function (r) { return !r.hidden; }).length;'

echo "-- light and dark"
light='var c = getComputedStyle(document.body), n = function (x) {
	return x.match(/[0-9]+/g).slice(0, 3).reduce(function (a, b) { return a + Number(b); }, 0); };
	return n(c.backgroundColor) > n(c.color) ? "light" : "dark";'
ask q.html "$light" --blink-settings=preferredColorScheme=1
ask q.html "$light" --blink-settings=preferredColorScheme=0

echo "-- every control has a name, every table a caption and heads"
ask q.html 'return Array.from(document.querySelectorAll("input, button, [tabindex], section")).filter(function (e) {
		return !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels && e.labels.length);
	}).length + " " + Array.from(document.querySelectorAll("table")).filter(function (t) {
		return !t.caption || t.querySelectorAll("thead th:not([scope])").length;
	}).length + " " + document.documentElement.lang;'

echo "-- hostile names"
evil_checkpoint 'e<b>"'
gptq-inspect 'e<b>"' --html evil.html --diff "$Q"
ask evil.html 'return [document.title, document.scripts.length, document.images.length,
	document.querySelectorAll(".map tbody td:not(.none)").length,
	document.querySelectorAll("#layers tbody tr").length,
	document.querySelectorAll("[onmouseover], [onerror]").length].join(" ");'
