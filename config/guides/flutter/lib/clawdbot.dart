// A device of Clawdbot, with the package mqtt_client, which speaks MQTT 3.1.1.
//
// NOT RUN HERE: there was no Dart where this was written. The same steps are run in Python and JavaScript beside it.

import 'dart:async';
import 'dart:convert';
import 'dart:io';
import 'dart:math';

import 'package:mqtt_client/mqtt_client.dart';
import 'package:mqtt_client/mqtt_server_client.dart';

/// Trusts the hub's own authority, and no other.
SecurityContext _trustOnly(List<int> ca) =>
    SecurityContext(withTrustedRoots: false)..setTrustedCertificatesBytes(ca);

/// Exchanges the code that `clawdbot device pair NAME` shows for the device's secret, by HTTPS.
Future<String> pair({required String host, required List<int> ca, required String code, int port = 8084}) async {
  final http = HttpClient(context: _trustOnly(ca))..connectionTimeout = const Duration(seconds: 10);
  try {
    final question = utf8.encode(jsonEncode({'code': code}));
    final request = await http.postUrl(Uri(scheme: 'https', host: host, port: port, path: '/pair'));
    request.headers.contentType = ContentType.json;
    request.contentLength = question.length;
    request.add(question);
    final response = await request.close();
    final answer = jsonDecode(await utf8.decodeStream(response)) as Map<String, dynamic>;
    if (answer['status'] != 'ok') throw Exception('not paired: ${answer['error']}');
    return answer['data']['secret'] as String;
  } finally {
    http.close();
  }
}

/// A connection that lasts: what breaks is mended.
class Device {
  Device({
    required this.host,
    required this.name,
    required this.secret,
    required this.ca,
    required this.onIntent,
    required this.onTrouble,
    required this.onRefused,
    this.port = 8883,
  });

  final String host, name, secret;
  final int port;
  final List<int> ca;

  /// What is to be done: each has `intent` and `slots`.
  final void Function(Map<String, dynamic> action) onIntent;
  final void Function(String text) onTrouble;

  /// The hub does not let this device in any more: it was revoked, or paired again elsewhere.
  final void Function() onRefused;

  final _answers = <String, _Answer>{};
  final _knownIntents = <String>[];
  final _random = Random.secure();
  MqttServerClient? _client;
  Timer? _retry;
  int _failures = 0;
  bool _hears = false;
  bool _isLeaving = false;

  bool get isConnected => _client?.connectionStatus?.state == MqttConnectionState.connected;

  Future<void> connect() async {
    _retry = null;
    final client = MqttServerClient.withPort(host, '$name-flutter', port)
      ..secure = true
      ..securityContext = _trustOnly(ca)
      ..keepAlivePeriod = 30
      ..setProtocolV311()
      ..logging(on: false)
      // Without startClean: the hub keeps the subscriptions, and what comes meanwhile. When the connection breaks, it says
      // the will for us.
      ..connectionMessage = MqttConnectMessage()
          .withClientIdentifier('$name-flutter')
          .withWillTopic('clawdbot/$name/state')
          .withWillMessage(jsonEncode({'online': false}))
          .withWillQos(MqttQos.atLeastOnce)
          .withWillRetain();
    _client = client;
    client.onDisconnected = () => _lost(client, 'it was closed');
    try {
      await client.connect(name, secret);
    } on Exception catch (error) {
      _lost(client, '$error');
      return;
    }
    if (!isConnected) return _lost(client, 'it was refused');
    _failures = 0;
    client.updates!.listen(_messages);
    // MQTT 3.1.1 knows no Response Topic: answers come here, told apart by their id.
    client.subscribe('clawdbot/$name/reply', MqttQos.atLeastOnce);
    client.subscribe('clawdbot/$name/intent', MqttQos.atLeastOnce);
    publishState({'online': true});
    _hears = true;
    for (final answer in _answers.values) {
      if (!answer.isSent) _send(answer);
    }
  }

  /// Tries again after a second or two, then twice as long each time, a minute at most. The chance in it keeps a whole
  /// house from coming back in the same moment.
  void _lost(MqttServerClient client, String why) {
    if (_isLeaving || client != _client || _retry != null) return;
    _hears = false;
    final code = client.connectionStatus?.returnCode;
    if (code == MqttConnectReturnCode.badUsernameOrPassword || code == MqttConnectReturnCode.notAuthorized) {
      _isLeaving = true;
      for (final answer in _answers.values) {
        answer.items.addError(Exception('the hub does not let this device in'));
        answer.items.close();
      }
      onRefused();
      return;
    }
    final wait = min(1000 * (1 << min(_failures, 6)), 60000) * (1 + _random.nextDouble());
    _failures += 1;
    onTrouble('no connection ($why); trying again in ${(wait / 1000).round()} s');
    _retry = Timer(Duration(milliseconds: wait.round()), connect);
  }

  void _messages(List<MqttReceivedMessage<MqttMessage>> messages) {
    for (final message in messages) {
      final published = message.payload as MqttPublishMessage;
      final content = jsonDecode(utf8.decode(published.payload.message)) as Map<String, dynamic>;
      final id = content['id'] as String;
      if (message.topic == 'clawdbot/$name/reply') {
        // Another client of this device may have asked for it.
        final answer = _answers[id];
        if (answer != null && answer.take(content)) _answers.remove(id);
        // A retained intent is old, and after a fault one may come twice.
      } else if (!published.header!.retain && !_knownIntents.contains(id)) {
        _knownIntents.add(id);
        if (_knownIntents.length > 100) _knownIntents.removeAt(0);
        for (final action in content['actions'] as List) {
          onIntent(action as Map<String, dynamic>);
        }
      }
    }
  }

  void _publish(String topic, Object content, {bool retain = false}) {
    final payload = (MqttClientPayloadBuilder()..addUTF8String(jsonEncode(content))).payload!;
    _client!.publishMessage(topic, MqttQos.atLeastOnce, payload, retain: retain);
  }

  /// Retained, so that whoever subscribes later knows it, too.
  void publishState(Map<String, dynamic> state) {
    if (isConnected) _publish('clawdbot/$name/state', state, retain: true);
  }

  /// The parts of the answer as they come. While there is no connection, the request waits.
  Stream<String> ask(String prompt) {
    // Ours, so that it is known again should the hub begin it anew.
    final id = List.generate(16, (_) => _random.nextInt(16).toRadixString(16)).join();
    final answer = _answers[id] = _Answer({'id': id, 'prompt': prompt});
    // An answer may come within milliseconds: who asks before the subscriptions may miss it.
    if (_hears) _send(answer);
    return answer.items.stream;
  }

  void _send(_Answer answer) {
    _publish('clawdbot/$name/command', answer.request);
    answer.isSent = true;
  }

  /// A goodbye is no broken connection: the hub says no will, so we say it ourselves.
  Future<void> leave() async {
    publishState({'online': false});
    // Time for it to go out.
    await Future<void>.delayed(const Duration(milliseconds: 200));
    _isLeaving = true;
    _retry?.cancel();
    _client?.disconnect();
  }
}

class _Answer {
  _Answer(this.request);

  final Map<String, dynamic> request;
  final items = StreamController<String>();
  bool isSent = false;
  int _attempt = 1, _expected = 0;

  /// Whether that was the last item.
  bool take(Map<String, dynamic> item) {
    final attempt = (item['attempt'] ?? 1) as int;
    if (item['seq'] == 0 && attempt > _attempt) {
      // The hub was restarted in the middle, and begins the answer anew.
      items.add('\n');
      _expected = 0;
    }
    _attempt = attempt;
    // At QoS 1 a message may come twice.
    if (item['seq'] != _expected) return false;
    _expected += 1;
    items.add(item['delta'] as String);
    final error = item['error'];
    if (error != null) items.addError(Exception('${error['code']}: ${error['message']}'));
    final isDone = item['done'] == true;
    if (isDone) items.close();
    return isDone;
  }
}
