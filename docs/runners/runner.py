"""A runner for belayd, with the package websocket-client. `work` is what it does for a run."""
import json, os, time, websocket

GONE = (OSError, websocket.WebSocketException, ValueError)  # how a connection ends
class Lost(Exception): pass  # the run is not this runner's any more; what is done is dropped

class Runner:
    number, run, state = 0, None, None  # `state` is what belayd said last of the run

    def connect(self):
        try:
            self.link = websocket.create_connection(
                os.environ["BELAY_RUNNER_URL"] + "/v1/runners/connect", timeout=60,
                header={"Authorization": "Bearer " + os.environ["BELAY_RUNNER_TOKEN"]},
                subprotocols=["belay.runner.v1"])
            welcome = json.loads(self.link.recv())["body"]  # its `run` says that a state follows
            self.state = json.loads(self.link.recv())["body"] if "run" in welcome else None
        except GONE as error:
            if getattr(error, "status_code", 503) in (400, 401): raise SystemExit(error)
            time.sleep(1)
            self.connect()

    def hear(self, say=None):  # None if the connection was lost, and there is a new one
        try:
            if say:
                self.number += 1
                self.link.send(json.dumps({"id": self.number, **say}))
            opcode, data = self.link.recv_data()
            if opcode == 8 and int.from_bytes(data[:2], "big") in (4001, 4004, 4006):
                raise SystemExit(data[2:].decode())  # replaced, gone, misled
            message = json.loads(data)
        except GONE:
            return self.connect()
        news = {"state": message.get("body"), "released": None}
        self.state = news.get(message["type"], self.state)
        return message

    def ask(self, kind, **body):  # over as many connections as it takes
        message = None
        while not message:
            body.update(run=self.run, epoch=self.state["epoch"] if self.state else 0)
            message = self.hear({"type": kind, "body": body})
            while message and message.get("id") != self.number:
                message = self.hear()
        if message["type"] == "error":
            raise Lost(message["body"]["message"])
        return message.get("body")

    def wait(self, **wait):  # the process may be checkpointed here, and restored at the end
        suspension = self.ask("suspend", wait=wait)["suspension"]
        while self.state and self.state["run"] == self.run:
            resumed = self.state["standing"].get("resumed", {})
            if resumed.get("suspension") == suspension:
                return resumed["result"].get("output")
            self.hear()
        raise Lost(f"{self.run} was taken away")

def work(runner, payload):
    runner.wait(on="timer", until=payload["until"])
    return {"waited": payload["until"]}

runner, begun = Runner(), None
runner.connect()
while True:
    while runner.state in (None, begun) or runner.state["standing"]["state"] != "assigned":
        runner.state = None
        message = runner.hear({"type": "ready"})
        while message and not runner.state:
            message = runner.hear()
    begun, runner.run = runner.state, runner.state["run"]
    try:
        started = runner.ask("start")
        try:
            outcome = {"end": "succeeded", "output": work(runner, started["payload"])}
        except Exception as error:
            outcome = {"end": "failed", "error": repr(error), "again": "retry"}
        runner.ask("complete", attempt=started["attempt"], outcome=outcome)
    except Lost as lost:
        print(lost)
