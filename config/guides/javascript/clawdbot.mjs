// A device of Clawdbot, in JavaScript: what Node (node.cjs) and a browser (browser.html) have in common.
//
// It needs MQTT.js 5, which is given to it as `mqtt`. The address is mqtts://hub.local:8883 for Node and
// wss://hub.local:8084/mqtt for a browser, which cannot speak MQTT without a WebSocket.

const KEEP_ALIVE_S = 30;
// How long the hub keeps our subscriptions, and what comes for us, while we are away.
const SESSION_EXPIRY_S = 300;
const LONGEST_WAIT_MS = 60_000;
// Bad User Name or Password, Not Authorized, Banned, Session Taken Over: trying again would not help.
const REFUSED_FOR_GOOD = [0x86, 0x87, 0x8a, 0x8e];

// MQTT 5. MQTT.js would connect again at a fixed pace; we do that ourselves, more and more slowly.
const common = { protocolVersion: 5, keepalive: KEEP_ALIVE_S, reconnectPeriod: 0, resubscribe: false };

// Exchanges the code that `clawdbot device pair NAME` shows for the device's secret. `tls` is what Node needs to know
// the hub, `{ ca }`; a browser trusts what its system trusts.
export function pair(mqtt, url, code, tls = {}) {
  return new Promise((resolve, reject) => {
    // This name is let in without a password while a code waits, and may do nothing but this.
    const client = mqtt.connect(url, { ...common, ...tls, username: 'pairing' });
    const end = (settle, value) => {
      clearTimeout(patience);
      client.end();
      settle(value);
    };
    const patience = setTimeout(end, 30_000, reject, new Error('the hub did not answer within 30 seconds'));
    client.on('connect', () => client.publish('clawdbot/bridge/request/pair', code, { qos: 1 }));
    // The answer comes to this connection alone, without a subscription.
    client.on('message', (_topic, payload) => {
      const answer = JSON.parse(new TextDecoder().decode(payload));
      if (answer.status === 'ok') end(resolve, answer.data.secret);
      else end(reject, new Error(`not paired: ${answer.error}`));
    });
    client.on('error', (error) => {
      const why = REFUSED_FOR_GOOD.includes(error.code) ? 'no code waits; run `clawdbot device pair` on the hub' : error.message;
      end(reject, new Error(`not paired: ${why}`));
    });
  });
}

// A connection that lasts: what breaks is mended. One that stays says how it is, and hears intents.
export class Device {
  #answers = new Map();
  #knownIntents = [];
  #hears = false;
  #failures = 0;
  #isLeaving = false;
  #why = 'it was closed';
  #timer;

  // `on.connected()` is called when it is, `on.intent(intent)` with what is to be done, `on.trouble(text)` with what somebody
  // might want to know, and `on.refused()` when the hub does not let this device in any more.
  constructor(mqtt, { url, name, secret, stays = true, client = 'js', tls = {}, on = {} }) {
    Object.assign(this, { name, stays, on });
    // Of two clients with the same id the newer one throws the other out. So what stays has an id of its own, by which the
    // hub finds its session again, and what only asks a new one each time.
    const clientId = `${name}-${stays ? client : randomHex(4)}`;
    // When the connection breaks, the hub says this for us.
    const will = { topic: `clawdbot/${name}/state`, payload: JSON.stringify({ online: false }), qos: 1, retain: true };
    // Where our answers shall go. Another client of this device has another place.
    this.answersTopic = `clawdbot/${name}/reply/${clientId}`;
    this.client = mqtt.connect(url, {
      ...common,
      ...tls,
      clientId,
      username: name,
      password: secret,
      clean: false,
      properties: { sessionExpiryInterval: SESSION_EXPIRY_S },
      ...(stays && { will }),
    });
    this.client.on('connect', () => this.#connected());
    this.client.on('message', (topic, payload, packet) => this.#message(topic, payload, packet));
    this.client.on('error', (error) => this.#failed(error.message, error.code));
    this.client.on('disconnect', ({ reasonCode }) => this.#failed(`the hub ended it, reason ${reasonCode}`, reasonCode));
    this.client.on('close', () => this.#closed());
  }

  #connected() {
    [this.#failures, this.#why] = [0, 'it was closed'];
    // Each time, since the hub may have forgotten the session.
    const topics = [this.answersTopic, ...(this.stays ? [`clawdbot/${this.name}/intent`] : [])];
    this.client.subscribe(topics, { qos: 1 }, (error) => {
      if (error) return;
      this.#hears = true;
      for (const waiting of this.#answers.values()) waiting.send();
      this.on.connected?.();
    });
    if (this.stays) this.publishState({ online: true });
  }

  #failed(why, code) {
    this.#why = why;
    if (REFUSED_FOR_GOOD.includes(code)) {
      this.#isLeaving = true;
      this.on.trouble?.(`no connection (${why})`);
      for (const waiting of this.#answers.values()) waiting.fail(new Error('the hub does not let this device in'));
      this.on.refused?.();
    }
  }

  // Connects again after a second or two, then twice as long each time, a minute at most. The chance in it keeps a whole
  // house from coming back in the same moment.
  #closed() {
    this.#hears = false;
    if (this.#isLeaving) return;
    const wait = Math.min(1000 * 2 ** this.#failures, LONGEST_WAIT_MS) * (1 + Math.random());
    this.#failures += 1;
    this.on.trouble?.(`no connection (${this.#why}); trying again in ${Math.round(wait / 1000)} s`);
    this.#timer = setTimeout(() => this.client.reconnect(), wait);
  }

  #message(topic, payload, packet) {
    const content = JSON.parse(new TextDecoder().decode(payload));
    if (topic === this.answersTopic) {
      const correlation = packet.properties?.correlationData;
      if (correlation) this.#answers.get(new TextDecoder().decode(correlation))?.take(content);
      // A retained intent is old, and after a fault one may come twice.
    } else if (!packet.retain && !this.#knownIntents.includes(content.id)) {
      this.#knownIntents = [...this.#knownIntents.slice(-99), content.id];
      this.on.intent?.(content);
    }
  }

  // Retained, so that whoever subscribes later knows it, too.
  publishState(state) {
    return this.client.publishAsync(`clawdbot/${this.name}/state`, JSON.stringify(state), { qos: 1, retain: true });
  }

  // The last item of the answer; `part(text)` is called with its parts as they come. While there is no connection, the
  // request waits.
  ask(prompt, part) {
    // Ours, so that it is known again should the hub begin it anew.
    const id = randomHex(16);
    return new Promise((resolve, reject) => {
      let [attempt, expected] = [1, 0];
      const end = (settle, value) => {
        this.#answers.delete(id);
        settle(value);
      };
      const take = (item) => {
        if (item.seq === 0 && (item.attempt ?? 1) > attempt) {
          // The hub was restarted in the middle, and begins the answer anew.
          part('\n');
          expected = 0;
        }
        attempt = item.attempt ?? 1;
        // At QoS 1 a message may come twice.
        if (item.seq !== expected) return;
        expected += 1;
        part(item.delta);
        if (item.error) end(reject, new Error(`${item.error.code}: ${item.error.message}`));
        else if (item.done) end(resolve, item);
      };
      // Once. Should the connection break then, MQTT.js sends it again.
      let isSent = false;
      const send = () => {
        if (isSent) return;
        isSent = true;
        this.client.publish(`clawdbot/${this.name}/command`, JSON.stringify({ id, prompt }), {
          qos: 1,
          properties: { responseTopic: this.answersTopic, correlationData: mqttBytes(id) },
        });
      };
      this.#answers.set(id, { send, take, fail: (error) => end(reject, error) });
      // An answer may come within milliseconds: who asks before the subscription is there may miss it.
      if (this.#hears) send();
    });
  }

  // A goodbye is no broken connection: the hub says no will, so we say it ourselves.
  async leave() {
    this.#isLeaving = true;
    clearTimeout(this.#timer);
    if (this.stays && this.client.connected) await this.publishState({ online: false });
    // Nobody comes back to the session of one that only asked.
    const sessionExpiryInterval = this.stays ? SESSION_EXPIRY_S : 0;
    await this.client.endAsync(false, { reasonCode: 0, properties: { sessionExpiryInterval } });
  }
}

function randomHex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

// Node has Buffer; in a browser any array of bytes will do.
function mqttBytes(text) {
  return globalThis.Buffer ? globalThis.Buffer.from(text) : new TextEncoder().encode(text);
}
