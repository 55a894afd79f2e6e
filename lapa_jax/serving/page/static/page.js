// The page: what the server says is shown, what the person asks for is sent. Messages: docs/live-page.md.

import { html } from "./elements.js";
import { Latency } from "./latency.js";
import { Pair } from "./pictures.js";
import { ActionPlot } from "./plot.js";

const $ = (id) => document.getElementById(id);
const CONTROLS = ["start", "one", "reset", "next"];
const PING_MILLISECONDS = 1000, PATIENCE_MILLISECONDS = 2000;

const infer = new Latency($("infer")), imagine = new Latency($("imagine")), trip = new Latency($("trip"));
const pair = new Pair($("seen"), $("painted"), $("difference"));
let socket = null, plot = null, status = {}, heard = 0;

// What the server says.
const HEARD = {
  welcome(message) {
    connection("connected", "good");
    const { policy, environment, actions, imagination } = message;
    const hash = policy.checkpoint ? `, checkpoint ${policy.checkpoint.slice(0, 8)}` : "";
    $("facts").textContent = `${policy.head ?? "a"} policy in ${environment.name}, ${environment.rate} Hz${hash}`;
    $("plot").replaceChildren();
    plot = new ActionPlot($("plot"), actions.axes);
    $("declared").textContent = actions.declared;
    $("latent-note").hidden = policy.plans_latents === false;
    $("imagination").hidden = !imagination.available;
    $("no-imagination").hidden = imagination.available;
    $("no-imagination").textContent = imagination.available ? "" : `No imagined frame: ${imagination.why}`;
    const ahead = imagination.gap ? ` ${imagination.gap} s later` : "";
    $("painted-name").textContent = `imagined${ahead}`;
    $("seed").max = message.limits.seed;
    for (const id of CONTROLS) $(id).disabled = false;
    say({ type: "speed", value: Number($("speed").value) });
    say({ type: "again", on: $("go-on").checked });
    if ($("instruction").value.trim()) instruct();
  },
  status(message) {
    status = message;
    heard = performance.now();
    $("step").textContent = message.step;
    $("doing").textContent = message.instruction;
    $("use-own").textContent = message.own_instruction;
    $("own").hidden = !message.own_instruction;
    $("start").textContent = message.running ? "Pause" : "Start";
    show(state(message));
  },
  frame(message) {
    $("camera").src = message.image;
    $("camera").classList.toggle("fine", message.image.startsWith("data:image/jpeg"));
    $("camera").hidden = false;
    if (message.action === null) begin(message.seed);
    else plot.passed(message.step, message.action);
    HEARD.status(message);
  },
  decision(message) {
    infer.add(message.infer_ms);
    infer.draw($("spark"));
    chips(message.latents);
    plot.planned(message);
  },
  imagined(message) {
    $("no-imagination").hidden = !message.why;
    if (message.why) {
      pair.clear();
      $("no-imagination").textContent = `No imagined frame: ${message.why}`;
      return;
    }
    imagine.add(message.imagine_ms);
    pair.show(message.seen, message.painted);
  },
  pong(message) {
    trip.add(performance.now() - message.at);
  },
  error(message) {
    problem(message.text, message.fatal);
  },
};

function begin(seed) {
  plot.clear();
  pair.clear();
  chips([]);
  $("seed").value = seed;
}

function state({ running, outcome, step }) {
  if (outcome === "success") return { text: "scene’s own task done", kind: "good" };
  if (outcome === "over") return { text: "scene over", kind: "bad" };
  if (running) return { text: "running", kind: "busy" };
  return { text: step ? "paused" : "ready", kind: "" };
}

function show({ text, kind }) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").className = `pill ${kind}`;
}

function chips(latents) {
  $("latents").replaceChildren();
  for (const code of latents) html($("latents"), "li").textContent = code;
}

function problem(text, ended) {
  $("problem").hidden = !text;
  $("problem").querySelector("p").textContent = text;
  $("reconnect").hidden = !ended;
  $("dismiss").hidden = ended;
}

function connection(text, kind) {
  $("connection").textContent = text;
  $("connection").className = `pill ${kind}`;
}

// What the person asks for.
function say(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function ask(message) {
  problem("", false);
  say(message);
}

function instruct() {
  ask({ type: "instruction", text: $("instruction").value });
}

function reset(seed) {
  ask({ type: "reset", seed });
}

function submits(form, act) {
  $(form).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

submits("say", instruct);
submits("again", () => reset(Number($("seed").value)));
$("use-own").addEventListener("click", () => {
  $("instruction").value = "";
  instruct();
});
$("start").addEventListener("click", () => ask({ type: status.running ? "pause" : "start" }));
$("one").addEventListener("click", () => ask({ type: "step" }));
$("next").addEventListener("click", () => reset(status.seed < Number($("seed").max) ? status.seed + 1 : 0));
$("speed").addEventListener("change", () => ask({ type: "speed", value: Number($("speed").value) }));
$("go-on").addEventListener("change", () => ask({ type: "again", on: $("go-on").checked }));
$("dismiss").addEventListener("click", () => problem("", false));
$("reconnect").addEventListener("click", () => connect());

function connect() {
  problem("", false);
  connection("connecting", "");
  const address = new URL("page/live", document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  address.hash = "";
  socket?.close();
  const mine = (socket = new WebSocket(address));
  let ended = false;  // and was it said why
  mine.addEventListener("message", (event) => {
    const message = JSON.parse(event.data);
    ended ||= message.type === "error" && message.fatal;
    HEARD[message.type](message);
  });
  mine.addEventListener("close", () => {
    if (mine !== socket) return;
    connection("not connected", "bad");
    status = {};
    show({ text: "waiting", kind: "" });
    for (const id of CONTROLS) $(id).disabled = true;
    if (!ended) problem("The server is gone, or does not let this page in.", true);
  });
}

setInterval(() => {
  const now = performance.now();
  say({ type: "ping", at: now });
  const late = status.running && !status.outcome && now - heard > PATIENCE_MILLISECONDS / Math.min(status.speed, 1);
  if (late) show({ text: "waiting for the policy", kind: "" });
}, PING_MILLISECONDS);
connect();
