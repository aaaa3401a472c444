// A client written with MQTT.js: mqtt_js_client.js URL VERSION TOKENS [CA_FILE]. VERSION is 4 or 5.
//
// Exits with 0 if the broker did everything right, and says on the standard error what it did wrong.

const assert = require('assert');
const fs = require('fs');
const mqtt = require('mqtt');

const [url, version, tokens, caFile] = process.argv.slice(2);
// A token is the client identifier's that showed it first.
const unused = tokens.split(',');
const protocolVersion = Number(version);

// A guard against hanging for good, not a measure: the machine may be busy.
setTimeout(() => {
  console.error('it took too long');
  process.exit(1);
}, 45_000).unref();

function options(clientId, more) {
  const ca = caFile && fs.readFileSync(caFile);
  return { clientId, username: 'phone', password: unused.pop(), protocolVersion, ca, reconnectPeriod: 0, ...more };
}

// The next message of a client, in the order they came.
function inbox(client) {
  const [come, awaited] = [[], []];
  client.on('message', (topic, payload, packet) => {
    const message = { topic, payload, qos: packet.qos };
    const next = awaited.shift();
    if (next) next(message);
    else come.push(message);
  });
  return () => (come.length ? Promise.resolve(come.shift()) : new Promise((next) => awaited.push(next)));
}

async function main() {
  const client = await mqtt.connectAsync(url, options('js'));
  const next = inbox(client);
  await client.subscribeAsync('clawdbot/phone/js/#', { qos: 2 });
  // Larger than one frame of ours.
  const long = Buffer.alloc(200_000, 'x');
  for (const qos of [0, 1, 2]) {
    await client.publishAsync(`clawdbot/phone/js/${qos}`, long, { qos });
    const message = await next();
    assert.strictEqual(message.topic, `clawdbot/phone/js/${qos}`);
    assert.strictEqual(message.qos, qos);
    assert(message.payload.equals(long), 'other bytes came');
  }
  // Many packets at once, which a WebSocket client may put into few frames.
  const many = Array.from({ length: 500 }, (_, number) =>
    client.publishAsync('clawdbot/phone/js/many', `${number}`, { qos: 1 }));
  await Promise.all(many);
  for (let number = 0; number < many.length; number += 1) {
    assert.strictEqual((await next()).payload.toString(), `${number}`);
  }

  const will = { topic: 'clawdbot/phone/js/gone', payload: Buffer.from('lost'), qos: 1 };
  const lost = await mqtt.connectAsync(url, options('js-lost', { will }));
  lost.on('error', () => {});
  lost.stream.destroy();
  assert.strictEqual((await next()).topic, 'clawdbot/phone/js/gone');
  await client.endAsync();
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
