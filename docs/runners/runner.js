// A runner for belayd, with the package ws. `work` is what it does for a run.
const WebSocket = require("ws");
const { BELAY_RUNNER_URL: url, BELAY_RUNNER_TOKEN: token } = process.env;

class Runner {
  number = 0; run = null; state = null; // `state` is what belayd said last of the run
  inbox = []; wake = () => {}; // messages that were not heard yet

  connect() {
    const headers = { Authorization: `Bearer ${token}` };
    const link = new WebSocket(`${url}/v1/runners/connect`, "belay.runner.v1", { headers });
    const silence = setTimeout(() => link.terminate(), 60_000); // belayd pings every 20 s
    let opening = true; // until it is known how things stand
    link.on("ping", () => silence.refresh());
    link.on("message", (data) => {
      const message = JSON.parse(data);
      if (["welcome", "state", "released"].includes(message.type))
        this.state = message.type === "state" ? message.body : null;
      if (!opening) this.inbox.push(message);
      else if (message.type === "state" || !message.body.run) opening = false, this.inbox = [null];
      this.wake();
    });
    link.on("error", ({ message }) => /40[01]$/.test(message) && process.exit(1)); // close follows
    link.on("close", (code) => {
      clearTimeout(silence);
      if ([4001, 4004, 4006].includes(code)) process.exit(0); // replaced, gone, misled
      setTimeout(() => this.connect(), 1000);
    });
    this.link = link;
  }
  async hear(say) { // null if the connection was lost, and there is a new one
    const frame = JSON.stringify({ id: say && ++this.number, ...say });
    if (say && this.link.readyState === WebSocket.OPEN) this.link.send(frame);
    while (!this.inbox.length) await new Promise((wake) => (this.wake = wake));
    return this.inbox.shift();
  }
  async ask(type, body) { // over as many connections as it takes
    for (;;) {
      const epoch = this.state?.epoch ?? 0;
      let message = await this.hear({ type, body: { ...body, run: this.run, epoch } });
      while (message && message.id !== this.number) message = await this.hear();
      if (message?.type === "error") throw new Error(message.body.message);
      if (message) return message.body;
    }
  }
  async wait(wait) { // the process may be checkpointed here, and restored at the end
    const { suspension } = await this.ask("suspend", { wait });
    for (; this.state?.run === this.run; await this.hear()) {
      const { resumed } = this.state.standing;
      if (resumed?.suspension === suspension) return resumed.result.output;
    }
    throw new Error(`${this.run} was taken away`);
  }
}

async function work(runner, payload) {
  await runner.wait({ on: "timer", until: payload.until });
  return { waited: payload.until };
}

async function main(runner, begun) {
  for (runner.connect(); ; ) {
    while (!runner.state || runner.state === begun || runner.state.standing.state !== "assigned") {
      runner.state = null;
      let message = await runner.hear({ type: "ready" });
      while (message && !runner.state) message = await runner.hear();
    }
    begun = runner.state, runner.run = begun.run;
    try {
      const { attempt, payload } = await runner.ask("start");
      const outcome = await work(runner, payload).then(
        (output) => ({ end: "succeeded", output }),
        (error) => ({ end: "failed", error: String(error), again: "retry" }));
      await runner.ask("complete", { attempt, outcome });
    } catch (lost) { console.log(lost.message); }
  }
}
main(new Runner());
