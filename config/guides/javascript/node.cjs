// A device of Clawdbot, for Node 20 or newer. It pairs once, asks, says how it is, and hears what is to be done.
//
//   npm install mqtt@5
//   # once, with the code that `clawdbot device pair kitchen` shows on the hub:
//   node node.cjs --hub mqtts://hub.local:8883 --ca ca.pem --name kitchen --code ABCD-2345
//   # a question, with the answer as it comes:
//   node node.cjs --hub mqtts://hub.local:8883 --ca ca.pem --name kitchen "turn off the lights in the kitchen"
//   # without a question it stays connected, says how it is, and prints what the hub understood:
//   node node.cjs --hub mqtts://hub.local:8883 --ca ca.pem --name kitchen
//
// `ca.pem` is the hub's authority (`clawdbot certs show` says where it is). The secret that the device is given lies in
// NAME.secret beside this program, or where --secret says. wss://hub.local:8084/mqtt does as well.

const fs = require('fs');
const path = require('path');
const { parseArgs } = require('util');
const mqtt = require('mqtt');

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(['hub', 'ca', 'name', 'code', 'secret'].map((name) => [name, { type: 'string' }])),
});

async function main() {
  const { pair, Device } = await import('./clawdbot.mjs');
  const { hub: url, name, code } = values;
  if (!url || !name || !values.ca) throw new Error('--hub, --ca and --name are needed; see the top of this file');
  // The hub's own authority, and no other.
  const tls = { ca: fs.readFileSync(values.ca) };
  const file = values.secret ?? path.join(__dirname, `${name}.secret`);
  const [question] = positionals;

  if (code) {
    // Only this user may read it: whoever has the secret is this device.
    fs.writeFileSync(file, await pair(mqtt, url, code, tls), { mode: 0o600 });
    console.log(`paired; the secret is in ${file}`);
    if (!question) return;
  }
  if (!fs.existsSync(file)) throw new Error(`there is no secret in ${file}: pair first, with --code`);
  const secret = fs.readFileSync(file, 'utf8').trim();

  const on = {
    connected: () => question || console.error('connected'),
    // Here a device does something: switches a lamp, closes a blind.
    intent: ({ actions }) => {
      for (const { intent, slots } of actions) console.log(`intent: ${intent} ${JSON.stringify(slots)}`);
    },
    trouble: (text) => console.error(text),
    refused: () => {
      console.error(`is ${name} running twice? or was it revoked? "clawdbot device pair ${name} --again" on the hub pairs it again`);
      process.exitCode = 1;
    },
  };
  const device = new Device(mqtt, { url, name, secret, stays: !question, client: 'node', tls, on });
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => device.leave());
  if (!question) return;
  try {
    await device.ask(question, (text) => process.stdout.write(text));
    console.log();
  } finally {
    await device.leave();
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
