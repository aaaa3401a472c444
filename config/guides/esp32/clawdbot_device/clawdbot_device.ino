// A device of Clawdbot for an ESP32, with Arduino. It pairs once, asks, says how it is, and switches its lamp as it is told.
//
// NOT RUN HERE: there was no board and no Arduino where this was written. The same steps are run in Python and JavaScript
// beside it.
//
// Arduino-ESP32 3.x; libraries PubSubClient 2.8 (MQTT 3.1.1) and ArduinoJson 7. Change the four values below, flash, open
// the serial monitor at 115200, and type the code that `clawdbot device pair lamp` shows on the hub. From then on whatever
// is typed is a question. Typing `forget` forgets the secret.

#include <ArduinoJson.h>
#include <ESPmDNS.h>
#include <Preferences.h>
#include <PubSubClient.h>
#include <WiFi.h>
#include <WiFiClientSecure.h>

const char *WIFI_NAME = "…";
const char *WIFI_PASSWORD = "…";
const char *HUB = "hub.local"; // as its certificate has it
// The hub's authority: the text of its certs/ca.pem. It holds for ten years; the hub renews the certificate below it by
// itself. No clock is needed: this board does not look at dates.
const char *AUTHORITY = R"(-----BEGIN CERTIFICATE-----
…
-----END CERTIFICATE-----
)";

const char *NAME = "lamp"; // as in `clawdbot device pair lamp`
const uint16_t PORT = 8883;
const int LAMP = 2; // the pin of the lamp

WiFiClientSecure tls;
PubSubClient mqtt(tls);
Preferences kept;
String secret;         // empty until paired
String code;           // what was typed to pair
String ours;           // the id of our question
unsigned long asked = 0;
int expected = 0;      // the seq of the next item of its answer
int attempt = 1;
unsigned failures = 0; // since the last connection
unsigned long next_try = 0;
String last_intent;

String topic(const char *rest) { return String("clawdbot/") + NAME + "/" + rest; }

void publish_state() {
  // Retained, so that whoever subscribes later knows it, too.
  String state = String("{\"online\":true,\"on\":") + (digitalRead(LAMP) ? "true" : "false") + "}";
  mqtt.publish(topic("state").c_str(), state.c_str(), true);
}

void act(JsonObject action) {
  const char *intent = action["intent"] | "";
  const char *domain = action["slots"]["domain"] | "";
  Serial.printf("intent: %s %s\n", intent, domain);
  bool on = strcmp(intent, "HassTurnOn") == 0, off = strcmp(intent, "HassTurnOff") == 0;
  if (strcmp(domain, "light") == 0 && (on || off)) {
    digitalWrite(LAMP, on);
    publish_state();
  }
}

void take(JsonDocument &item) {
  // Another client of this device may have asked for it.
  if (ours != (item["id"] | "")) return;
  int seq = item["seq"] | 0, of = item["attempt"] | 1;
  // The hub was restarted in the middle, and begins the answer anew.
  if (seq == 0 && of > attempt) {
    Serial.println();
    expected = 0;
  }
  attempt = of;
  // At QoS 1 a message may come twice.
  if (seq != expected) return;
  expected += 1;
  Serial.print(item["delta"] | "");
  if (item["error"].is<JsonObject>()) Serial.print(item["error"]["message"] | "an error");
  if (item["done"] | false) {
    Serial.println();
    ours = "";
  }
}

void pair_by(JsonDocument &answer) {
  if (strcmp(answer["status"] | "", "ok") == 0) {
    secret = String(answer["data"]["secret"] | "");
    // In the flash. Whoever can read that is this device; encrypt it where that matters.
    kept.putString("secret", secret);
    Serial.println("paired");
  } else {
    Serial.printf("not paired: %s\n", answer["error"] | "no reason was given");
  }
  code = "";
  mqtt.disconnect();
}

void on_message(char *topic_name, uint8_t *payload, unsigned int length) {
  // Before anything is published: that uses the buffer in which the topic and the payload are.
  String on = topic_name;
  JsonDocument content;
  if (deserializeJson(content, payload, length)) return;
  if (on == "clawdbot/bridge/response/pair") {
    pair_by(content);
  } else if (on == topic("reply")) {
    take(content);
  } else if (on == topic("intent") && last_intent != (content["id"] | "")) {
    // After a fault one may come twice.
    last_intent = String(content["id"] | "");
    for (JsonObject action : content["actions"].as<JsonArray>()) act(action);
  }
}

// TLS is opened here, and not by PubSubClient: names that end with .local are found by mDNS, and the certificate is held
// against the name all the same.
bool open_tls() {
  String name = HUB;
  IPAddress address;
  if (name.endsWith(".local")) {
    address = MDNS.queryHost(name.substring(0, name.length() - 6).c_str());
  } else {
    WiFi.hostByName(HUB, address);
  }
  return address != IPAddress() && tls.connect(address, PORT, HUB, AUTHORITY, nullptr, nullptr);
}

bool connect_to_hub() {
  tls.stop();
  if (!open_tls()) return false;
  if (secret == "") {
    // This name is let in without a password while a code waits, and may do nothing but this. The answer comes to this
    // connection alone, without a subscription.
    return mqtt.connect("", "pairing", nullptr) && mqtt.publish("clawdbot/bridge/request/pair", code.c_str());
  }
  // When the connection breaks, the hub says the will for us. Without a clean session (the last `false`) it keeps our
  // subscriptions, and what comes meanwhile.
  String id = String(NAME) + "-esp32";
  if (!mqtt.connect(id.c_str(), NAME, secret.c_str(), topic("state").c_str(), 1, true, "{\"online\":false}", false)) return false;
  mqtt.subscribe(topic("reply").c_str(), 1);
  mqtt.subscribe(topic("intent").c_str(), 1);
  publish_state();
  return true;
}

// After a second or two, then twice as long each time, a minute at most. The chance in it keeps a whole house from coming
// back in the same moment.
void keep_connected() {
  if (mqtt.connected() || (secret == "" && code == "") || (long)(millis() - next_try) < 0) return;
  if (WiFi.status() == WL_CONNECTED && connect_to_hub()) {
    Serial.println("connected");
    failures = 0;
    return;
  }
  unsigned long wait = min(1000UL << min(failures, 6U), 60000UL);
  next_try = millis() + wait + random(wait);
  failures += 1;
  Serial.printf("no connection (%d); trying again\n", mqtt.state());
  if (secret == "") {
    Serial.println("the code may have run out: type a new one");
    code = "";
  } else if (mqtt.state() == MQTT_CONNECT_BAD_CREDENTIALS || mqtt.state() == MQTT_CONNECT_UNAUTHORIZED) {
    Serial.println("was this device revoked? type `forget`, and on the hub: clawdbot device pair NAME --again");
  }
}

void ask(const String &prompt) {
  JsonDocument request;
  // Ours, so that the answer is known by it. 64 bits by the board's own chance.
  ours = String((uint32_t)esp_random(), HEX) + String((uint32_t)esp_random(), HEX);
  request["id"] = ours;
  request["prompt"] = prompt;
  String text;
  serializeJson(request, text);
  expected = 0;
  attempt = 1;
  asked = millis();
  // PubSubClient publishes at QoS 0: what is lost on the way has to be asked again.
  if (!mqtt.publish(topic("command").c_str(), text.c_str())) Serial.println("not asked: no connection");
}

void typed(String line) {
  line.trim();
  if (line == "") return;
  if (line == "forget") {
    kept.remove("secret");
    ESP.restart();
  } else if (secret == "") {
    code = line;
    next_try = millis();
  } else {
    ask(line);
  }
}

void setup() {
  Serial.begin(115200);
  pinMode(LAMP, OUTPUT);
  kept.begin("clawdbot");
  secret = kept.getString("secret", "");
  WiFi.mode(WIFI_STA);
  WiFi.setAutoReconnect(true);
  WiFi.begin(WIFI_NAME, WIFI_PASSWORD);
  MDNS.begin(NAME);
  // An item of an answer must fit as a whole; one that does not is passed over.
  mqtt.setBufferSize(4096);
  mqtt.setKeepAlive(30);
  mqtt.setCallback(on_message);
  if (secret == "") Serial.println("type the code that `clawdbot device pair` shows");
}

void loop() {
  keep_connected();
  mqtt.loop();
  if (ours != "" && millis() - asked > 120000UL) {
    Serial.println("no answer came; ask again");
    ours = "";
  }
  if (Serial.available()) typed(Serial.readStringUntil('\n'));
}
