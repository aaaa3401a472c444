// The smallest app around clawdbot.dart: pairs once, asks, and shows the answer as it comes.
//
// NOT RUN HERE: there was no Flutter where this was written.
//
//   flutter create --empty clawdbot_device && cd clawdbot_device   # then these files over it, and the hub's ca.pem into assets/
//   flutter run
//
// Android needs the permission android.permission.INTERNET in its manifest, iOS an NSLocalNetworkUsageDescription in Info.plist.

import 'package:flutter/material.dart';
import 'package:flutter/services.dart' show rootBundle;
import 'package:flutter_secure_storage/flutter_secure_storage.dart';

import 'clawdbot.dart';

void main() => runApp(const MaterialApp(title: 'Clawdbot', home: Page()));

class Page extends StatefulWidget {
  const Page({super.key});

  @override
  State<Page> createState() => _PageState();
}

class _PageState extends State<Page> {
  // The system's keychain or keystore: whoever has the secret is this device.
  static const _storage = FlutterSecureStorage();

  final _host = TextEditingController(text: 'hub.local');
  final _name = TextEditingController(text: 'phone');
  final _code = TextEditingController();
  final _question = TextEditingController();
  Device? _device;
  String _said = '';

  void _say(String text) {
    if (mounted) setState(() => _said += text);
  }

  @override
  void initState() {
    super.initState();
    _connect();
  }

  @override
  void dispose() {
    _device?.leave();
    super.dispose();
  }

  Future<List<int>> _ca() async => (await rootBundle.load('assets/ca.pem')).buffer.asUint8List();

  Future<void> _pair() async {
    try {
      final (host, name) = (_host.text.trim(), _name.text.trim());
      final secret = await pair(host: host, ca: await _ca(), code: _code.text.trim());
      await _storage.write(key: 'host', value: host);
      await _storage.write(key: 'name', value: name);
      await _storage.write(key: 'secret', value: secret);
      await _connect();
    } on Exception catch (error) {
      _say('$error\n');
    }
  }

  Future<void> _connect() async {
    final secret = await _storage.read(key: 'secret');
    if (secret == null) return _say('pair first: clawdbot device pair phone\n');
    await _device?.leave();
    final device = Device(
      host: (await _storage.read(key: 'host'))!,
      name: (await _storage.read(key: 'name'))!,
      secret: secret,
      ca: await _ca(),
      // Here an app does something.
      onIntent: (action) => _say('intent: ${action['intent']} ${action['slots']}\n'),
      onTrouble: (text) => _say('$text\n'),
      onRefused: () => _say('was it revoked? on the hub: clawdbot device pair NAME --again\n'),
    );
    _device = device;
    await device.connect();
  }

  void _ask() => _device?.ask(_question.text).listen(_say, onError: (Object error) => _say('$error\n'), onDone: () => _say('\n'));

  @override
  Widget build(BuildContext context) => Scaffold(
        appBar: AppBar(title: const Text('Clawdbot')),
        body: Padding(
          padding: const EdgeInsets.all(16),
          child: Column(children: [
            TextField(controller: _host, decoration: const InputDecoration(labelText: 'hub')),
            TextField(controller: _name, decoration: const InputDecoration(labelText: 'name')),
            TextField(controller: _code, decoration: const InputDecoration(labelText: 'code')),
            TextButton(onPressed: _pair, child: const Text('Pair')),
            TextField(controller: _question, decoration: const InputDecoration(labelText: 'question'), onSubmitted: (_) => _ask()),
            Expanded(child: SingleChildScrollView(reverse: true, child: SelectableText(_said))),
          ]),
        ),
      );
}
