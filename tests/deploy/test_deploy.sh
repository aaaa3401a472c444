#!/usr/bin/env bash
# config/deploy/deploy.sh from nothing to an answered question, through upgrades that go well and badly, to nothing again.
#
#   test_deploy.sh DEPLOY_SH CLAWDBOT
#
# All happens below a scratch root (CLAWDBOT_DEPLOY_ROOT), with stand-ins for what would change this machine. That for
# systemctl starts and stops what the unit says. Ports are the usual ones, in a network of this script's own.
#
# Stand-ins are written in single quotes, and what stands there is theirs to expand:
# shellcheck disable=SC2016
set -euo pipefail

deploy=$(realpath "$1")
real=$(realpath "$2")

if [ "${3:-}" != inside ]; then
  if ! unshare --net --pid --fork --mount-proc --kill-child true 2>/dev/null; then
    echo "SKIPPED: deploy.sh is not tested: this user may make no network of its own (unshare --net)" >&2
    exit 77
  fi
  exec unshare --net --pid --fork --mount-proc --kill-child bash "$0" "$deploy" "$real" inside
fi
ip link set lo up

scratch=$(mktemp -d "${TMPDIR:-/tmp}/test-deploy.XXXXXX")
chmod 755 "$scratch"
trap 'code=$?; rm -rf "$scratch"; exit $code' EXIT
root=$scratch/root
programs=$scratch/programs
said=$scratch/said
journal=$scratch/journal
mkdir -p "$root/run/systemd/system" "$root/tmp" "$programs" "$scratch/home"
export CLAWDBOT_DEPLOY_ROOT=$root TEST_STATE=$scratch TEST_REAL=$real
export HOME=$scratch/home PATH="$programs:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
unset CARGO_TARGET_DIR SUDO_USER
bin=$root/usr/local/bin/clawdbot
data=$root/var/lib/clawdbot
unit=$root/etc/systemd/system/clawdbot.service

# ------------------------------------------------------------------------------------------------------- stand-ins

# Starts the command of a service and starts it again when it falls, as a manager of services does.
cat >"$programs/keep-running" <<'PROGRAM'
#!/usr/bin/env bash
trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; exit 0' TERM
while true; do
  "$@" >>"$TEST_STATE/journal" 2>&1 &
  child=$!
  echo "$child" >"$TEST_STATE/pid"
  code=0
  wait "$child" || code=$?
  [ "$code" -ne 0 ] || exit 0
  if [ "$code" -eq 2 ]; then
    touch "$TEST_STATE/failed"
    exit 0
  fi
  sleep 1
  echo "$(($(cat "$TEST_STATE/falls") + 1))" >"$TEST_STATE/falls"
done
PROGRAM

# Starts what its arguments say below the root, and stops it.
cat >"$programs/manager" <<'PROGRAM'
#!/usr/bin/env bash
keeper=$TEST_STATE/keeper
case $1 in
  start)
    shift
    rm -f "$TEST_STATE/failed"
    echo 0 >"$TEST_STATE/falls"
    words=()
    for word in "$@"; do
      case $word in /*) word=$CLAWDBOT_DEPLOY_ROOT$word ;; esac
      words+=("$word")
    done
    setsid keep-running "${words[@]}" </dev/null >/dev/null 2>&1 &
    echo $! >"$keeper"
    ;;
  stop)
    [ -e "$keeper" ] || exit 0
    kill -TERM "$(cat "$keeper")" 2>/dev/null
    for _ in $(seq 200); do
      kill -0 "$(cat "$keeper")" 2>/dev/null || break
      sleep 0.1
    done
    rm -f "$keeper"
    ;;
  runs) [ -e "$keeper" ] && kill -0 "$(cat "$keeper")" 2>/dev/null ;;
esac
PROGRAM

cat >"$programs/systemctl" <<'PROGRAM'
#!/usr/bin/env bash
echo "systemctl $*" >>"$TEST_STATE/calls"
unit=$CLAWDBOT_DEPLOY_ROOT/etc/systemd/system/clawdbot.service
case $1 in
  daemon-reload | reset-failed) ;;
  enable) touch "$TEST_STATE/enabled" ;;
  disable) rm -f "$TEST_STATE/enabled" ;;
  is-enabled)
    if [ -e "$TEST_STATE/enabled" ]; then echo enabled; else
      echo disabled
      exit 1
    fi
    ;;
  is-active) manager runs ;;
  is-failed) [ -e "$TEST_STATE/failed" ] ;;
  show) cat "$TEST_STATE/falls" ;;
  start)
    manager runs || eval "manager start $(sed -n 's/^ExecStart=//p' "$unit")"
    ;;
  stop) manager stop ;;
  *) echo "systemctl: $* is not known to this stand-in" >&2; exit 1 ;;
esac
PROGRAM

cat >"$programs/journalctl" <<'PROGRAM'
#!/usr/bin/env bash
tail -n 20 "$TEST_STATE/journal"
PROGRAM

cat >"$programs/launchctl" <<'PROGRAM'
#!/usr/bin/env bash
echo "launchctl $*" >>"$TEST_STATE/calls"
list=$CLAWDBOT_DEPLOY_ROOT/Library/LaunchDaemons/local.clawdbot.plist
loaded=$TEST_STATE/loaded
case $1 in
  bootstrap) touch "$loaded" ;;
  kickstart)
    manager runs || python3 - "$list" <<'PYTHON' | xargs -0 manager start
import plistlib, sys
sys.stdout.write("\0".join(plistlib.load(open(sys.argv[1], "rb"))["ProgramArguments"]))
PYTHON
    ;;
  bootout) manager stop; rm -f "$loaded" ;;
  print)
    [ -e "$loaded" ] || exit 113
    if manager runs; then printf '\tstate = running\n'; else printf '\tstate = not running\n'; fi
    ;;
esac
PROGRAM

for program in useradd userdel; do
  printf '#!/bin/sh\necho "%s $*" >>"$TEST_STATE/calls"\n' "$program" >"$programs/$program"
done
chmod +x "$programs"/*

# A program that is Clawdbot in all but what its second argument says: a stand-in for another version of it.
make_version() {
  local file=$scratch/versions/$1
  mkdir -p "$scratch/versions"
  {
    cat <<'PROGRAM'
#!/usr/bin/env bash
touch "$TEST_STATE/was-run"
PROGRAM
    printf '# %s\n%s\n' "$1" "${2:-}"
    cat <<'PROGRAM'
case "$1 ${2:-}" in
  'service install')
    if "$TEST_REAL" service --help >/dev/null 2>&1; then
      exec "$TEST_REAL" "$@" ${TEST_MANAGER:+--manager "$TEST_MANAGER"}
    fi
    # Of before there was such a command.
    while [ $# -gt 0 ]; do
      case $1 in
        --root) root=$2 ;;
        --program) program=$2 ;;
        --data-dir) data=$2 ;;
        --user) user=$2 ;;
      esac
      shift
    done
    if [ "${TEST_MANAGER:-}" = launchd ]; then
      mkdir -p "$root/Library/LaunchDaemons"
      words=$(printf '\t\t<string>%s</string>\n' "$program" serve --data-dir "$data")
      printf '<plist version="1.0">\n<dict>\n\t<key>ProgramArguments</key>\n\t<array>\n%s\n\t</array>\n%s\n</dict>\n</plist>\n' \
        "$words" "	<key>UserName</key><string>$user</string>" >"$root/Library/LaunchDaemons/local.clawdbot.plist"
    else
      mkdir -p "$root/etc/systemd/system"
      printf '[Service]\nExecStart="%s" "serve" "--data-dir" "%s"\nUser=%s\n' "$program" "$data" "$user" \
        >"$root/etc/systemd/system/clawdbot.service"
    fi
    exit 0
    ;;
  'backup create')
    if ! "$TEST_REAL" backup --help >/dev/null 2>&1; then
      [ "${3:-}" = --help ] || touch "$4/backup-$$"
      exit 0
    fi
    ;;
esac
exec "$TEST_REAL" "$@"
PROGRAM
  } >"$file"
  chmod 755 "$file"
  sha256sum "$file" | sed "s/ .*/  $1/" >"$file.sha256"
  printf %s "$file"
}

archive_of() {
  local name=clawdbot-0.1.0-x86_64-unknown-linux-gnu
  mkdir -p "$scratch/archive/$name"
  cp "$1" "$scratch/archive/$name/clawdbot"
  echo words >"$scratch/archive/$name/README.md"
  tar -czf "$scratch/$name.tar.gz" -C "$scratch/archive" "$name"
  (cd "$scratch" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")
  printf %s "$scratch/$name.tar.gz"
}

# -------------------------------------------------------------------------------------------------------- what for

bad() {
  echo "FAILED in $testing: $1" >&2
  sed 's/^/    | /' "$said" >&2
  [ ! -e "$journal" ] || tail -n 20 "$journal" | sed 's/^/    journal | /' >&2
  exit 1
}

# Runs deploy.sh without a terminal; what it says is in $said.
deploy() {
  local expected=$1 code=0
  shift
  bash "$deploy" "$@" </dev/null >"$said" 2>&1 || code=$?
  [ "$code" -eq "$expected" ] || bad "exit code $code, and not $expected: $*"
}

says() {
  local words
  for words in "$@"; do grep -qF -- "$words" "$said" || bad "it does not say: $words"; done
}

says_not() { ! grep -qF -- "$1" "$said" || bad "it says: $1"; }

health() { curl -s -m 5 -o /dev/null -w '%{http_code}' http://127.0.0.1:9464/health || true; }

is_healthy() { [ "$(health)" = 200 ] || bad "not healthy"; }

answers() {
  local answer
  answer=$("$bin" ask "turn off the lights in the kitchen" --data-dir "$data" 2>&1) || bad "no answer: $answer"
  case $answer in *HassTurnOff*) ;; *) bad "another answer: $answer" ;; esac
}

is_version() { cmp -s "$bin" "$1" || bad "$bin is not $1"; }

tree() { find "$root" "$HOME" -printf '%p %y %m %s %T@\n' | sort; }

# The same of what the running daemon leaves alone.
tree_at_rest() {
  find "$root/usr" "$root/etc" "$data/clawdbot.toml" "$data/certs" "$root/tmp" -printf '%p %y %m %s %T@\n' | sort
}

unchanged() { [ "$before" = "$(tree)" ] || bad "something was changed: $(diff <(echo "$before") <(tree))"; }

# Another program on two ports.
hold() {
  python3 -c 'import socket, sys, time
held = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[1:]]
time.sleep(60)' "$@" &
  holder=$!
  while [ "$(ss -Hltn | grep -c -e ":$1 " -e ":$2 ")" -lt 2 ]; do sleep 0.1; done
}

release() {
  kill "$holder"
  wait "$holder" 2>/dev/null || true
}

gone() {
  local file
  for file in "$@"; do [ ! -e "$file" ] || bad "$file is left"; done
}

daemon() { cat "$scratch/pid"; }

testing=''
began=$SECONDS
it() {
  [ -z "$testing" ] || printf 'ok  %s (%s s)\n' "$testing" "$((SECONDS - began))"
  testing=$1 began=$SECONDS
}

one=$(make_version one)
two=$(make_version two)

# -------------------------------------------------------------------------------------------------------- the tests

it "wrong options are exit code 2, and say what is right"
deploy 0 --help
says "deploy.sh upgrade" "--sha256 HEX" "Exit codes"
deploy 2 --nonsense
deploy 2 --binary https://example.invalid/clawdbot.tar.gz
says "--sha256"
deploy 2 --binary "$one" --sha256 abc
deploy 2 --binary "$one" --from-source
deploy 2 install --purge
deploy 2 --data-dir "/var/lib/a place"
mv "$one.sha256" "$one.kept"
deploy 2 --binary "$one" --yes
says "--sha256 HEX"
mv "$one.kept" "$one.sha256"

it "a dry run says every step with its command, and changes nothing"
before=$(tree)
for what in "$one" "$(archive_of "$one")"; do
  deploy 0 --dry-run --binary "$what"
  says "What would be done" "installs /usr/local/bin/clawdbot" "service install" "certs init" "clawdbot.toml" \
    "systemctl start" "mv -f"
  unchanged
done

it "a program with another checksum is not run"
before=$(tree)
rm -f "$scratch/was-run"
deploy 1 --binary "$one" --sha256 "$(printf 'a%.0s' $(seq 64))" --yes
says "the checksum" "is wrong" "nothing of it was run"
[ ! -e "$scratch/was-run" ] || bad "it was run"
unchanged

it "without a terminal and without --yes nothing is done"
before=$(tree)
deploy 1 --binary "$one"
says "What will be done" "say --yes"
unchanged

it "whatever is wrong with the machine is said at once"
before=$(tree)
hold 1883 9464
mv "$root/run/systemd" "$root/run/none"
printf '#!/bin/sh\necho 1000000000\n' >"$programs/date"
chmod +x "$programs/date"
deploy 1 --binary "$one" --yes
says "port 1883 is taken" "port 9464 is taken" "no systemd runs here" "the clock says" "nothing was changed"
rm "$programs/date"
mv "$root/run/none" "$root/run/systemd"
release
[ ! -e "$bin" ] || bad "it was installed"

it "a configuration to begin with says the ports, and becomes the configuration"
before=$(tree)
printf '[mqtt]\ntcp = "127.0.0.1:1999" # not 1883\n[metrics]\nlisten = "127.0.0.1:9999"\n' >"$scratch/first.toml"
hold 1883 9464
deploy 0 --binary "$one" --dry-run --config "$scratch/first.toml"
says "copies $scratch/first.toml to /var/lib/clawdbot/clawdbot.toml"
release
hold 1999 9999
deploy 1 --binary "$one" --dry-run --config "$scratch/first.toml"
says "port 1999 is taken" "port 9999 is taken"
release
unchanged

it "settings are read by whichever awk there is"
sed -n '/^setting() {/,/^}/p' "$deploy" >"$scratch/setting.sh"
for awk in gawk mawk busybox original-awk; do
  command -v "$awk" >/dev/null || continue
  mkdir -p "$scratch/awk-$awk"
  ln -s "$(command -v "$awk")" "$scratch/awk-$awk/awk"
  PATH="$scratch/awk-$awk:$PATH" bash -c '
    set -euo pipefail
    peek() { "$@"; }
    at() { printf %s "$1"; }
    config=/nowhere/at/all first_config=$1/first.toml
    . "$1/setting.sh"
    setting mqtt tcp a
    setting mqtt tls b
    setting metrics listen c' bash "$scratch" >"$said" 2>&1 || bad "$awk does not take it"
  [ "$(tr '\n' ' ' <"$said")" = "127.0.0.1:1999 b 127.0.0.1:9999 " ] || bad "$awk reads other settings"
done

it "from an archive to an answered question"
deploy 0 --binary "$(archive_of "$one")" --yes
says "is healthy" "device pair" "certs/ca.pem"
is_version "$one"
is_healthy
answers
[ "$(stat -c %a "$data/clawdbot.toml" "$data" "$data/certs/ca-key.pem" | tr '\n' ' ')" = "600 700 600 " ] || bad "the modes"
grep -q "systemctl enable" "$scratch/calls" || bad "it does not start with the machine"

it "a second time changes nothing"
before_at_rest=$(tree_at_rest)
pid=$(daemon)
deploy 0 --binary "$(archive_of "$one")" --yes
says "already: the program" "already: the service" "already: certificates" "installed already, and healthy"
deploy 0 --binary "$one"
says "installed already, and healthy"
[ "$before_at_rest" = "$(tree_at_rest)" ] || bad "changed: $(diff <(echo "$before_at_rest") <(tree_at_rest))"
[ "$pid" = "$(daemon)" ] || bad "the daemon was started anew"

it "status says how it is"
deploy 0 status
says "clawdbot 0.1.0" "service:   runs" "health:    healthy"
says_not "started with the machine"

it "a service that was written and not enabled is completed"
systemctl disable clawdbot
deploy 0 status
says "is not started with the machine"
deploy 0 --binary "$one" --yes
says "has the service started with the machine"
systemctl is-enabled clawdbot >/dev/null || bad "it is not enabled"
[ "$pid" = "$(daemon)" ] || bad "the daemon was started anew"
is_healthy

it "paths of the service that this script cannot read are said, and nothing is done"
cp "$unit" "$scratch/unit"
for path in '/srv/my data' '/srv/100%%' '/srv/a$$b'; do
  printf '[Service]\nExecStart="/usr/local/bin/clawdbot" "serve" "--data-dir" "%s"\nUser=clawdbot\n' "$path" >"$unit"
  deploy 1 upgrade --binary "$two" --yes --no-backup
  says "$path" "characters other than"
done
cp "$scratch/unit" "$unit"
is_version "$one"

it "a full disk at the copy of the program changes nothing"
cat >"$programs/cp" <<'PROGRAM'
#!/usr/bin/env bash
case "$*" in
  *.clawdbot.undo*)
    for target in "$@"; do :; done
    echo half >"$target"
    echo "cp: no space left on device" >&2
    exit 1
    ;;
esac
exec /usr/bin/cp "$@"
PROGRAM
chmod +x "$programs/cp"
pid=$(daemon)
deploy 1 upgrade --binary "$two" --yes --no-backup
says "could not be copied aside; nothing was changed"
rm "$programs/cp"
is_version "$one"
gone "${bin%/*}/.clawdbot.undo" "${bin%/*}/.clawdbot.undo.part"
[ "$pid" = "$(daemon)" ] || bad "the daemon was started anew"

it "an upgrade keeps the former program, and makes a backup before"
# What whoever is in the service would have root write to.
echo theirs >"$scratch/theirs"
ln -s "$scratch/theirs" "$data/store.redb.before-upgrade"
! grep -nE 'as_root (cp|mv|rm -f) .*data_dir' "$deploy" >"$said" || bad "root writes in the directory of the service"
deploy 0 upgrade --binary "$two" --yes
says "makes a backup" "runs, and is healthy" "backup key show"
[ "$(cat "$scratch/theirs")" = theirs ] || bad "it wrote through a link"
if "$real" backup key show --help >/dev/null 2>&1; then
  key=$("$real" backup key show --data-dir "$data" | grep -oE '[A-Za-z0-9-]{20,}' | head -n 1)
  says_not "${key:?no key is shown}"
fi
is_version "$two"
cmp -s "$bin.previous" "$one" || bad "the former program is not kept"
[ -n "$(ls "$data/backups")" ] || bad "no backup"
[ ! -e "$data/store.redb.before-upgrade" ] || bad "the copy of the store is left"
is_healthy
answers

it "an upgrade to the same program changes nothing"
pid=$(daemon)
deploy 0 upgrade --binary "$two" --yes
says "installed already"
[ "$pid" = "$(daemon)" ] || bad "the daemon was started anew"

it "a program that does not run, or is another one, is refused before anything is stopped"
deploy 1 upgrade --binary "$(make_version broken 'exit 1')" --yes
says "does not run on this machine; nothing was changed"
deploy 1 upgrade --binary "$(make_version other 'echo other 1.0; exit 0')" --yes
says "this is not Clawdbot"
picky='if [ "$1" = check ]; then echo "no such setting" >&2; exit 2; fi'
deploy 1 upgrade --binary "$(make_version picky "$picky")" --yes
says "does not like the configuration; nothing was changed"
[ "$pid" = "$(daemon)" ] || bad "the daemon was started anew"
is_version "$two"

it "an upgrade without a backup is not made, unless that is wanted"
unwilling=$(make_version unwilling 'if [ "$1 $2" = "backup create" ] && [ "$3" != --help ]; then echo "no room" >&2; exit 1; fi')
deploy 0 upgrade --binary "$unwilling" --yes
deploy 1 upgrade --binary "$two" --yes
says "no room" "no backup could be made; nothing was changed"
is_version "$unwilling"
deploy 0 upgrade --binary "$two" --yes --no-backup
is_version "$two"

# What each of these does when it is to serve.
while IFS='|' read -r name serving; do
  it "an upgrade to one that $name rolls back by itself"
  deploy 1 upgrade --binary "$(make_version "${name%% *}" "if [ \"\$1\" = serve ]; then $serving; fi")" --yes --wait 6
  says "the new program did not become healthy" "The last lines of its log" "rolled back: the former program runs"
  is_version "$two"
  cmp -s "$bin.previous" "$unwilling" || bad "the program from before is lost"
  is_healthy
  answers
done <<'WAYS'
falls at its start|echo "it fell" >&2; exit 1
refuses its settings|echo "a wrong setting" >&2; exit 2
hangs without a word|exec sleep 600
WAYS

it "an upgrade that changed the form of the store and fell gets the former store back"
migrating='if [ "$1" = serve ]; then echo "of a newer form" >"$3/store.redb"; exit 1; fi'
deploy 1 upgrade --binary "$(make_version migrating "$migrating")" --yes --wait 6
says "puts the store of before back" "on the store of before the upgrade, and is healthy"
is_version "$two"
answers
grep -q "newer form" "$data/store.redb.of-failed-upgrade" || bad "the new store is lost"

it "one that was not healthy before the upgrade keeps its store, and the copy of before"
systemctl stop clawdbot
rm "$data/store.redb.of-failed-upgrade"
deploy 1 upgrade --binary "$scratch/versions/migrating" --yes --wait 6 --no-backup
says "is not healthy as it is (silent)" "its store stays as it is" "not healthy either"
gone "$data/store.redb.of-failed-upgrade"
grep -q "newer form" "$data/store.redb" || bad "the store was exchanged"
is_version "$two"
mv "$data/store.redb.before-upgrade" "$data/store.redb"
systemctl stop clawdbot
systemctl start clawdbot
for _ in $(seq 100); do [ "$(health)" != 200 ] || break; sleep 0.2; done
is_healthy

it "an upgrade that is interrupted is taken back"
bash "$deploy" upgrade --binary "$(make_version hanging 'if [ "$1" = serve ]; then exec sleep 600; fi')" --yes </dev/null \
  >"$said" 2>&1 &
upgrade=$!
for _ in $(seq 300); do
  if grep -q "starts the service" "$said" && cmp -s "$bin" "$scratch/versions/hanging"; then break; fi
  sleep 0.1
done
sleep 1
kill -TERM "$upgrade"
code=0
wait "$upgrade" || code=$?
[ "$code" -eq 143 ] || bad "exit code $code"
says "interrupted in the middle of an upgrade" "rolled back"
is_version "$two"
is_healthy

it "an upgrade that was cut off is taken back by rollback, and nothing else is done before"
systemctl stop clawdbot
# As a power failure leaves it: the failed program in its place, that of before beside it.
mv "$bin" "$(dirname "$bin")/.clawdbot.undo"
cp "$scratch/versions/hanging" "$bin"
deploy 1 status
says "was cut off"
deploy 1 upgrade --binary "$one" --yes --no-backup
says "was cut off"
deploy 0 rollback --yes
says "rolled back: the former program runs"
is_version "$two"
gone "$(dirname "$bin")/.clawdbot.undo"
is_healthy
answers

it "a copy of the former program that a power failure spoilt takes nothing's place"
install -m 0755 /dev/null "$(dirname "$bin")/.clawdbot.undo"
deploy 1 rollback --yes
says "does not run" ".clawdbot.undo.bad"
is_version "$two"
gone "$(dirname "$bin")/.clawdbot.undo"
is_healthy

it "rollback goes to the program of before, and back again"
deploy 0 rollback --yes
is_version "$unwilling"
is_healthy
deploy 0 rollback --yes --no-backup
is_version "$two"
is_healthy

it "status has exit code 1 where it does not run"
systemctl stop clawdbot
deploy 1 status
says "service:   does not run" "health:    silent"

it "uninstall leaves the data, and says where"
echo "# mine" >>"$data/clawdbot.toml"
authority=$(sha256sum "$data/certs/ca.pem")
deploy 1 uninstall
says "say --yes"
deploy 0 uninstall --yes
says "Uninstalled." "The data is in /var/lib/clawdbot"
gone "$bin" "$bin.previous" "$unit"
[ -e "$data/store.redb" ] || bad "the data is gone"
[ "$(health)" = 000 ] || bad "it runs still"
deploy 0 uninstall --yes
says "Nothing is installed."

it "what is installed again finds its data, and leaves the configuration as it is"
deploy 0 --binary "$one" --yes --model some/model
says "already: the configuration" "it stays as it is" 'model.path = "some/model"'
tail -n 1 "$data/clawdbot.toml" | grep -q "# mine" || bad "the configuration was changed"
[ "$authority" = "$(sha256sum "$data/certs/ca.pem")" ] || bad "the authority is another one"
answers

it "a daemon that does not become healthy at its installation is said, with its log"
deploy 0 uninstall --yes
deploy 1 --binary "$(make_version ill 'if [ "$1" = serve ]; then echo "it is ill" >&2; exit 2; fi')" --yes --wait 5
says "the service gave up" "it is ill" "installed, but not healthy" "doctor"
deploy 0 uninstall --yes

it "purge asks for a word, and removes everything"
deploy 0 --binary "$one" --yes
deploy 1 uninstall --purge
[ -e "$data" ] || bad "the data is gone"
mkdir -p "$root/srv/photos"
deploy 1 uninstall --purge --yes --data-dir /srv/photos
says "does not look like a data directory"
mkdir -p "$root/srv/photos/keys" "$root/srv/photos/certs" "$root/srv/photos/holidays"
deploy 1 uninstall --purge --yes --data-dir /srv/photos
says "what is not of Clawdbot" "holidays"
[ -d "$root/srv/photos/holidays" ] || bad "somebody's photos are gone"
if command -v script >/dev/null; then
  # A terminal, at which somebody types.
  script -qec "bash '$deploy' uninstall --purge" /dev/null < <(sleep 1; echo y; sleep 1; echo no; sleep 1) >"$said" 2>&1 || true
  says 'Type the word "delete"' "nothing was changed"
  [ -e "$data" ] || bad "the data is gone"
  [ -e "$bin" ] || bad "the program is gone"
  is_healthy
  script -qec "bash '$deploy' uninstall --purge" /dev/null < <(sleep 1; echo y; sleep 1; echo delete; sleep 1) >"$said" 2>&1
else
  echo "SKIPPED: nobody types at deploy.sh: there is no program script" >&2
  deploy 0 uninstall --purge --yes
fi
[ ! -e "$data" ] || bad "the data is there still"

it "from source, with a toolchain that is brought first"
checkout=$scratch/checkout
mkdir -p "$checkout/config/deploy" "$checkout/target/release"
cp "$deploy" "$checkout/config/deploy/deploy.sh"
printf '[package]\nname = "clawdbot"\n' >"$checkout/Cargo.toml"
cat >"$programs/curl" <<'PROGRAM'
#!/usr/bin/env bash
case "$*" in
  *sh.rustup.rs*)
    while [ "$1" != -o ]; do shift; done
    cp "$TEST_STATE/rustup.sh" "$2"
    ;;
  *) exec /usr/bin/curl "$@" ;;
esac
PROGRAM
cat >"$scratch/rustup.sh" <<'PROGRAM'
mkdir -p "$HOME/.cargo/bin"
cp "$TEST_STATE/cargo" "$HOME/.cargo/bin/cargo"
PROGRAM
cat >"$scratch/cargo" <<'PROGRAM'
#!/usr/bin/env bash
echo "cargo $*" >>"$TEST_STATE/calls"
cp "$TEST_STATE/versions/one" "$TEST_STATE/checkout/target/release/clawdbot"
PROGRAM
printf '#!/bin/sh\n' >"$programs/cc"
chmod +x "$programs/curl" "$programs/cc" "$scratch/cargo"
deployed=$deploy
deploy=$checkout/config/deploy/deploy.sh
deploy 0 --yes
says "installs the Rust toolchain" "builds $checkout" "is healthy"
grep -q "cargo build --release --locked" "$scratch/calls" || bad "nothing was built"
answers
pid=$(daemon)
deploy 0 --yes --from-source
says_not "installs the Rust toolchain"
says "already: the program"
[ "$pid" = "$(daemon)" ] || bad "the daemon was started anew"
rm "$programs/curl" "$programs/cc"

it "the script of an unpacked archive takes the program there; what is fetched has the archive's checksum"
archive=$(archive_of "$two")
unpacked=$scratch/archive/clawdbot-0.1.0-x86_64-unknown-linux-gnu
mkdir -p "$unpacked/config/deploy"
cp "$deployed" "$unpacked/config/deploy/deploy.sh"
deploy=$unpacked/config/deploy/deploy.sh
deploy 0 upgrade --yes
is_version "$two"
deploy=$deployed
deploy 0 upgrade --binary "file://$(archive_of "$one")" --sha256 "$(sha256sum "$(archive_of "$one")" | cut -d ' ' -f 1)" --yes
is_version "$one"
deploy 1 upgrade --binary "file://$archive" --sha256 "$(printf 'b%.0s' $(seq 64))" --yes
says "is wrong"
is_version "$one"
deploy 0 uninstall --purge --yes
[ ! -e "$data" ] || bad "the data is there still"

it "without a service it is the caller's own"
deploy 0 --binary "$one" --yes --no-service --prefix "$scratch/home/.local"
says "serve --data-dir"
[ -x "$root$scratch/home/.local/bin/clawdbot" ] || bad "no program"
[ -e "$root$scratch/home/.local/share/clawdbot/clawdbot.toml" ] || bad "no configuration"
deploy 0 uninstall --purge --yes --no-service --prefix "$scratch/home/.local"
[ ! -e "$root$scratch/home/.local/share/clawdbot" ] || bad "the data is there still"

it "on macOS, as far as stand-ins for its programs go"
printf '#!/bin/sh\ncase $1 in -s) echo Darwin ;; -m) echo arm64 ;; *) exec /usr/bin/uname "$@" ;; esac\n' >"$programs/uname"
printf '#!/bin/sh\necho 15.1\n' >"$programs/sw_vers"
printf '#!/bin/sh\necho 17179869184\n' >"$programs/sysctl"
printf '#!/bin/sh\necho "tcp4 0 0 127.0.0.1.7 *.* LISTEN"\n' >"$programs/netstat"
cat >"$programs/socketfilterfw" <<'PROGRAM'
#!/bin/sh
echo "socketfilterfw $*" >>"$TEST_STATE/calls"
case $1 in
  --getglobalstate) [ -e "$TEST_STATE/firewall" ] && echo "Firewall is enabled." || echo "Firewall is disabled." ;;
  --setglobalstate) touch "$TEST_STATE/firewall" ;;
  --add) echo "$2" >>"$TEST_STATE/firewall" ;;
  --listapps) cat "$TEST_STATE/firewall" ;;
esac
PROGRAM
chmod +x "$programs"/*
data=$root/usr/local/var/clawdbot
list=$root/Library/LaunchDaemons/local.clawdbot.plist
export TEST_MANAGER=launchd
deploy 0 --binary "$one" --yes
says "This machine: macOS 15.1, arm64, 16384 MiB" "the user _clawdbot" "application firewall" "is healthy"
answers
grep -q -- "--unblockapp /usr/local/bin/clawdbot" "$scratch/calls" || bad "the firewall was left"
deploy 0 --binary "$one" --yes
says "already: the service" "already: the application firewall" "installed already, and healthy"
deploy 0 upgrade --binary "$two" --yes
is_version "$two"
deploy 1 upgrade --binary "$scratch/versions/falls" --yes --wait 6
says "rolled back"
is_version "$two"
answers
deploy 0 status
deploy 0 uninstall --purge --yes
gone "$list" "$data" "$bin"

it "nothing in the script is newer than bash 3.2"
newer='declare -A|local -n|mapfile|readarray|coproc|EPOCHSECONDS|wait -n|&>>|\|&|;;&|;&$|printf -v|%\(|@[QUL]\}'
newer="$newer"'|\$\{[A-Za-z_0-9]+(,|\^)|\[-[0-9]+\]\}|\[ -v |\[@\]|=\('
! grep -nE -- "$newer" "$deploy" >"$said" || bad "this is newer than bash 3.2, or an array, which cannot be empty there"
for old in 'mapfile -t x' 'local y=${x,,}' 'a=(1 2)' 'echo &>>x' 'f "${a[@]}"'; do
  grep -qE -- "$newer" <<<"$old" || bad "$old would not be found"
done

it ''
echo "all fine"
