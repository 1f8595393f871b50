// One drain by mqtt.js, from memory: node drain.mjs PORT TOPIC QOS MODE PAYLOADS
// MODE: `one-by-one` awaits each acknowledgement, `pipelined` none, `offline` leaves it all to the
// client's own queue, filled before the connection. Prints JSON: seconds from the connection to the last
// acknowledgement, and processor seconds.
import { readFileSync } from "node:fs";
import mqtt from "mqtt";

const [port, topic, qosText, mode, path] = process.argv.slice(2);
const qos = Number(qosText);
const payloads = readFileSync(path, "utf8").split("\n").filter(Boolean);
const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
  protocolVersion: 5,
  clientId: `mqttjs-${process.pid}`,
});
const publishAll = () => payloads.map((payload) => client.publishAsync(topic, payload, { qos, retain: true }));
const queued = mode === "offline" ? publishAll() : null;

// Not the client's `connect`: that comes once its own queue has been acknowledged.
let began, cpu;
client.on("packetreceive", (packet) => {
  if (packet.cmd !== "connack") return;
  began = process.hrtime.bigint();
  cpu = process.cpuUsage();
});

client.on("connect", async () => {
  if (mode === "one-by-one") {
    for (const payload of payloads) await client.publishAsync(topic, payload, { qos, retain: true });
  } else {
    await Promise.all(queued ?? publishAll());
  }
  const seconds = Number(process.hrtime.bigint() - began) / 1e9;
  const used = process.cpuUsage(cpu);
  console.log(JSON.stringify({ seconds, cpu: (used.user + used.system) / 1e6 }));
  await client.endAsync();
});
client.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
