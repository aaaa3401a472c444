#!/usr/bin/env bash
# Brings Clawdbot onto this machine as a service, keeps it current, and takes it away again.
#
#   deploy.sh [install] [options]   from nothing to a service that answers; a second time changes nothing
#   deploy.sh upgrade [options]     another binary; the former one comes back by itself if that does not become healthy
#   deploy.sh rollback [options]    the binary from before the last upgrade
#   deploy.sh uninstall [--purge]   takes service and binary away; the data stays, unless --purge
#   deploy.sh status                what is installed, and whether it is healthy
#
#   --binary PATH|URL   a release archive (clawdbot-….tar.gz) or the program alone
#   --sha256 HEX        its checksum, without which nothing is run; a file PATH.sha256 beside it does as well
#   --from-source       build the checkout that this script lies in; brings the Rust toolchain where there is none
#                       [default: in an unpacked archive the program there, in a checkout --from-source]
#   --model NAME|PATH   the model of a new configuration: a name on the Hugging Face hub, or a file or directory here
#   --config FILE       a configuration to begin with, where there is none yet (other ports than the usual ones, say)
#   --data-dir DIR      where it keeps its data [default: that of the service, or /var/lib/clawdbot;
#                       on macOS /usr/local/var/clawdbot]
#   --prefix DIR        the program goes to DIR/bin [default: /usr/local]
#   --wait SECONDS      how long it may take to become healthy [default: 120; five times as long while it answers
#                       that its model is being packed or loaded]
#   --yes               asks nothing; the answer to every question is yes
#   --dry-run           says every step with its command, and changes nothing
#   --no-service        only the program, its configuration and its certificates, for the user who calls this
#   --no-firewall       leaves the application firewall of macOS as it is
#   --no-backup         upgrades without a backup
#   --purge             with uninstall: removes the data, too
#
# Exit codes: 0 fine, 1 something failed, 2 wrong options. README.md beside this file says more.
#
# It runs in bash 3.2, which is what macOS has. Every path on the target lies below CLAWDBOT_DEPLOY_ROOT, if that is
# set: then nothing is done as another user, which is how it is tested.
#
# Functions that are called by a trap or as an argument look unreachable before the last line's exit:
# shellcheck disable=SC2317
set -euo pipefail
# What is put down for the service's user has to be readable by it; and who became root by `su` lacks the places of root.
umask 022
PATH=$PATH:/usr/sbin:/sbin

root=${CLAWDBOT_DEPLOY_ROOT:-}
root=${root%/}
here=$(cd "$(dirname "$0")" && pwd -P)

# No clock can be before the day this was written.
oldest_clock_s=1795824000
# What the assistant needs at least, with something for what a machine of 2 GB keeps to itself.
memory_mib=1800
memory_for_model_mib=7400
disk_mib=1024
disk_for_model_mib=10240
disk_for_build_mib=6144

command=install
binary='' sha256='' from_source=no model='' data_dir='' prefix='' config='' first_config='' wait_s=120
assume_yes=no dry_run=no service=yes firewall=yes backup=yes purge=no

# What happens to a step: `tell` only says it, `show` tells its commands as well, `act` carries it out.
mode=act
steps=0
staging=''
staged=''
unconfirmed=no
store_copied=no
# Whether the service was healthy before the upgrade, and whether it has answered since it was started last.
was_healthy=no
answered=no
faults=''
warnings=''
health_address=''

# ---------------------------------------------------------------------------------------------- words and commands

say() { printf '%s\n' "$*"; }
note() { printf '  %s\n' "$*"; }
complain() { printf 'deploy.sh: %s\n' "$*" >&2; }

fail() {
  complain "$1"
  exit 1
}

misuse() {
  complain "$1 (deploy.sh --help says what there is)"
  exit 2
}

has() { command -v "$1" >/dev/null 2>&1; }

usage() { sed -n '2,/^# Exit codes/s/^# \{0,1\}//p' "$here/$(basename "$0")"; }

# Something that changes this machine.
step() {
  steps=$((steps + 1))
  printf '* %s\n' "$1"
}

# Something that does not need to be done.
already() { [ "$mode" = tell ] || printf '  already: %s\n' "$1"; }

# A command that changes something.
run() {
  case $mode in
    tell) return 0 ;;
    show)
      printf '    $'
      printf ' %q' "$@"
      printf '\n'
      return 0
      ;;
  esac
  local code=0
  "$@" || code=$?
  [ "$code" -eq 0 ] || complain "this failed with exit code $code: $*"
  return "$code"
}

may_all() { [ -n "$root" ] || [ "$(id -u)" -eq 0 ]; }

as_root() {
  if may_all; then run "$@"; else run sudo -- "$@"; fi
}

# For where the program lies. Not with a service: what root starts is not for others to exchange.
as_placer() {
  if [ "$service" = no ] && [ -w "$(nearest "$prefix/bin")" ]; then run "$@"; else as_root "$@"; fi
}

# What only root may see, where the service has a user of its own. Without a terminal nobody could type a password.
peek() {
  if may_all || [ "$service" = no ]; then
    "$@"
  elif [ -t 0 ] && [ "$dry_run" = no ]; then
    sudo -- "$@"
  else
    sudo -n -- "$@" 2>/dev/null
  fi
}

# As the service's user, so that what is made belongs to it.
as_service() {
  if [ -n "$root" ] || [ "$service" = no ]; then
    run "$@"
  elif [ "$(id -u)" -eq 0 ] && has runuser; then
    run runuser -u "$user" -- "$@"
  else
    run sudo -u "$user" -- "$@"
  fi
}

# Where a path of the target lies.
at() { printf '%s%s' "$root" "$1"; }

# The directory in which it lies, or will lie, as far as that is there.
nearest() {
  local path
  path=$(at "$1")
  while [ ! -d "$path" ] && [ "$path" != / ]; do path=$(dirname "$path"); done
  printf %s "$path"
}

ask() {
  [ "$assume_yes" = no ] || return 0
  local answer=''
  printf '%s [y/N] ' "$1"
  read -r answer || true
  case $answer in y | Y | yes | Yes) return 0 ;; *) return 1 ;; esac
}

digest() {
  if has sha256sum; then
    sha256sum
  elif has shasum; then
    shasum -a 256
  else
    openssl dgst -sha256 -r
  fi | cut -d ' ' -f 1
}

digest_of() { digest <"$1"; }

mktemp_staging() {
  [ -z "$staging" ] || return 0
  # The service's user runs what lies there, to check its configuration. TMPDIR is closed to others on macOS.
  staging=$(mktemp -d "$(at /tmp)/clawdbot-deploy.XXXXXX")
  chmod 755 "$staging"
}

# However this ends, an upgrade that nobody saw healthy is taken back.
ending() {
  local code=$?
  trap - EXIT
  if [ "$unconfirmed" = yes ]; then
    complain "interrupted in the middle of an upgrade"
    undo || true
  fi
  [ -z "$staging" ] || rm -rf "$staging"
  exit "$code"
}

# -------------------------------------------------------------------------------------------------- what is there

# The words with which the service starts the program, one a line.
service_words() {
  [ -e "$(at "$service_file")" ] || return 0
  if [ "$os" = Darwin ]; then
    awk '/<key>ProgramArguments<\/key>/ { inside = 1 }
         inside && /<string>/ { sub(/.*<string>/, ""); sub(/<\/string>.*/, ""); print }
         inside && /<\/array>/ { exit }' "$(at "$service_file")"
  else
    # Ours are in quotation marks; a blank between those is of the word.
    awk '/^ExecStart=/ {
      sub(/^ExecStart=/, "")
      if (/^"/) { gsub(/^"|"[ \t]*$/, ""); gsub(/"[ \t]+"/, "\n") } else gsub(/[ \t]+/, "\n")
      print
      exit
    }' "$(at "$service_file")"
  fi
}

service_program() { service_words | sed -n 1p; }

# What follows a flag among those words.
service_flag() {
  service_words | awk -v flag="$1" 'found { print; exit } $0 == flag { found = 1 }'
}

service_user() {
  [ -e "$(at "$service_file")" ] || return 0
  if [ "$os" = Darwin ]; then
    awk '/<key>UserName<\/key>/ { found = 1 }
         found && /<string>/ { sub(/.*<string>/, ""); sub(/<\/string>.*/, ""); print; exit }' "$(at "$service_file")"
  else
    sed -n 's/^User=//p' "$(at "$service_file")"
  fi
}

has_service() { [ "$service" = yes ] && [ -e "$(at "$service_file")" ]; }

# A setting of the configuration that is there or will be there, or its default. Enough TOML for addresses.
setting() {
  local section=$1 key=$2 fallback=$3 text
  text=$(peek cat "$(at "$config")" 2>/dev/null || { [ -z "$first_config" ] || cat "$first_config"; })
  printf '%s\n' "$text" | awk -v section="$section" -v key="$key" -v fallback="$fallback" '
    /^[ \t]*\[/ { gsub(/[ \t]/, ""); inside = (index($0, "[" section "]") == 1); next }
    inside && $0 ~ "^[ \t]*" key "[ \t]*=" {
      sub(/^[^=]*=[ \t]*/, ""); sub(/[ \t]*#.*$/, ""); gsub(/["\047]/, ""); value = $0; found = 1
    }
    END { print found ? value : fallback }'
}

ports() {
  local address
  for address in "$(setting mqtt tcp 127.0.0.1:1883)" "$(setting mqtt websocket 127.0.0.1:8083)" \
    "$(setting mqtt tls 0.0.0.0:8883)" "$(setting mqtt secure_websocket 0.0.0.0:8084)" \
    "$(setting metrics listen 127.0.0.1:9464)"; do
    [ -z "$address" ] || printf '%s\n' "${address##*:}"
  done
}

# Whether anything listens on a port. A minimal Debian has no program that tells.
is_taken() {
  if [ "$os" = Darwin ]; then
    netstat -an -p tcp | awk -v port="$1" '$6 == "LISTEN" { n = split($4, part, "."); if (part[n] == port) found = 1 }
      END { exit !found }'
  else
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v port="$(printf '%04X' "$1")" '
      $4 == "0A" { n = split($2, part, ":"); if (part[n] == port) found = 1 } END { exit !found }'
  fi
}

# Not by `grep -q` behind a pipe: it ends at the first hit, and what writes to it falls by that, and so does the pipe.
service_runs() {
  has_service || return 1
  if [ "$os" = Darwin ]; then
    peek launchctl print "system/$label" 2>/dev/null | grep 'state = running' >/dev/null
  else
    ask_systemd is-active
  fi
}

# Where there is no D-Bus, systemd answers root only.
ask_systemd() {
  systemctl "$1" --quiet clawdbot 2>/dev/null || { ! may_all && peek systemctl "$1" --quiet clawdbot; }
}

# Given up by who starts it anew; waiting on would be of no use.
service_gave_up() { [ "$os" = Linux ] && ask_systemd is-failed; }

# How often it fell and was started again since we started it. What launchd says of that was never seen.
falls() {
  local count=0
  [ "$os" = Darwin ] || count=$(systemctl show --property=NRestarts --value clawdbot 2>/dev/null) || count=0
  case $count in '' | *[!0-9]*) count=0 ;; esac
  printf %s "$count"
}

# Whether it is started with the machine. An install that was cut off may have written it only. Anybody may ask.
service_is_enabled() {
  [ "$os" = Darwin ] || [ "$(systemctl is-enabled clawdbot 2>/dev/null || true)" != disabled ]
}

start_service() {
  if [ "$os" = Darwin ]; then
    service_is_loaded || as_root launchctl bootstrap system "$(at "$service_file")" || return
    as_root launchctl kickstart "system/$label"
  else
    # Or its falls of before were counted, too, where it was stopped between two of them. A unit not yet known has none.
    [ "$mode" != act ] || as_root sh -c 'systemctl reset-failed clawdbot 2>/dev/null || true'
    # Not until it is ready, which one that hangs never is: whether it is healthy is seen by asking it.
    as_root systemctl start --no-block clawdbot
  fi
}

service_is_loaded() { peek launchctl print "system/$label" >/dev/null 2>&1; }

stop_service() {
  if [ "$os" = Darwin ]; then
    if service_is_loaded; then as_root launchctl bootout "system/$label"; fi
    # It comes back before the daemon has gone, and nothing can be put in its place until then.
    local waited=0
    while [ "$mode" = act ] && service_is_loaded && [ "$waited" -lt 90 ]; do
      waited=$((waited + 1))
      sleep 1
    done
  else
    as_root systemctl stop clawdbot
  fi
}

find_health() {
  health_address=$(setting metrics listen 127.0.0.1:9464)
  case $health_address in
    '[::]':*) health_address="[::1]:${health_address##*:}" ;;
    0.0.0.0:*) health_address="127.0.0.1:${health_address##*:}" ;;
  esac
}

# The answer of /health: the status line and the body.
ask_health() {
  local address=$health_address host line
  if has curl; then
    curl -s -i --noproxy '*' -m 5 "http://$address/health" | tr -d '\r'
    return 0
  fi
  host=${address%:*}
  host=${host#[}
  host=${host%]}
  (
    exec 3<>"/dev/tcp/$host/${address##*:}"
    printf 'GET /health HTTP/1.0\r\nHost: %s\r\n\r\n' "$address" >&3
    while IFS= read -r -t 5 line <&3 || [ -n "$line" ]; do
      printf '%s\n' "$line"
      line=''
    done
  ) 2>/dev/null | tr -d '\r'
}

# healthy, starting (its model is being packed or loaded), unwell, or silent.
health() {
  local answer
  answer=$(ask_health || true)
  case $answer in
    HTTP/*' 200'*) echo healthy ;;
    HTTP/*'"model":"starting"'*) echo starting ;;
    HTTP/*) echo unwell ;;
    *) echo silent ;;
  esac
}

# ------------------------------------------------------------------------------------------ is this a place for it

# Lines, and not arrays: an empty one counts as unset before bash 4.4.
fault() { faults="$faults  WRONG: $1"$'\n'; }
warning() { warnings="$warnings  warning: $1"$'\n'; }

# All that is wrong at once: who mends one thing after the other loses a day.
examine() {
  examine_means
  examine_memory
  examine_disk
  examine_ports
  examine_clock
  say "This machine: $(this_machine)"
  printf '%s' "$warnings$faults"
  [ -z "$faults" ] || [ "$dry_run" = yes ] || fail "this must be mended first; nothing was changed"
}

this_machine() {
  local name=$os
  if [ "$os" = Darwin ]; then
    name="macOS $(sw_vers -productVersion)"
  elif [ -r /etc/os-release ]; then
    name=$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release | tr -d '"')
  fi
  printf '%s, %s, %s MiB of memory, %s MiB free for the data' "$name" "$machine" "$(total_mib)" "$(free_mib "$data_dir")"
}

examine_chip() {
  case $machine in
    arm64 | aarch64) ;;
    x86_64 | amd64)
      if [ "$os" = Darwin ] && [ "$(sysctl -n sysctl.proc_translated 2>/dev/null)" = 1 ]; then
        warning "this shell runs under Rosetta; take the archive for arm64, which is what this chip is"
      elif ! has_avx2; then
        warning "this processor has no AVX2; the model will answer slowly"
      fi
      ;;
    *) fault "the processor is a $machine; there are releases for arm64 and x86_64 only" ;;
  esac
}

has_avx2() {
  if [ "$os" = Darwin ]; then
    [ "$(sysctl -n hw.optional.avx2_0 2>/dev/null)" = 1 ]
  else
    grep -qw avx2 /proc/cpuinfo
  fi
}

examine_version() {
  local version
  case $os in
    Darwin)
      version=$(sw_vers -productVersion)
      [ "${version%%.*}" -ge 12 ] || fault "this is macOS $version; it needs 12 or newer"
      ;;
    Linux)
      version=$(uname -r)
      [ "${version%%.*}" -ge 4 ] || fault "this is Linux $version; it needs 4.18 or newer"
      if [ "$service" = yes ] && { ! has systemctl || [ ! -d "$(at /run/systemd/system)" ]; }; then
        fault "no systemd runs here, which the service needs; --no-service installs all but that"
      fi
      ;;
    *) fault "this is $os; it runs on Linux and macOS" ;;
  esac
}

total_mib() {
  if [ "$os" = Darwin ]; then
    echo $(($(sysctl -n hw.memsize) / 1048576))
  else
    awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo
  fi
}

examine_memory() {
  local mib
  mib=$(total_mib)
  if [ "$mib" -lt "$memory_mib" ]; then
    fault "there are $mib MiB of memory; it needs 2 GiB"
  elif [ -n "$model" ] && [ "$model" != embedded ] && [ "$mib" -lt "$memory_for_model_mib" ]; then
    warning "there are $mib MiB of memory; a model of 3B weights wants 8 GiB (clawdbot model fit says more)"
  fi
}

# What is free where a path lies, or will lie.
free_mib() {
  df -Pk "$(nearest "$1")" | awk 'NR == 2 { print int($4 / 1024) }'
}

examine_disk() {
  local need=$disk_mib free
  if [ -n "$model" ] && [ "$model" != embedded ]; then need=$disk_for_model_mib; fi
  free=$(free_mib "$data_dir")
  [ "$free" -ge "$need" ] || fault "$free MiB are free for $data_dir; it needs $need"
  free=$(free_mib "$prefix/bin")
  [ "$free" -ge 512 ] || fault "$free MiB are free for $prefix/bin; it needs 512"
  if [ "$from_source" = yes ]; then
    free=$(df -Pk "$source_dir" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge "$disk_for_build_mib" ] || fault "$free MiB are free for $source_dir; to build needs $disk_for_build_mib"
  fi
}

examine_ports() {
  # What is taken then is taken by it.
  ! service_runs || return 0
  local port
  for port in $(ports); do
    if is_taken "$port"; then
      fault "port $port is taken: $(holder_of "$port"); stop that, or set another port in $config (--config FILE)"
    fi
  done
  if has pgrep && pgrep -x clawdbot >/dev/null 2>&1; then
    warning "a clawdbot that is not the service runs as process $(pgrep -x clawdbot | head -n 1)"
  fi
}

holder_of() {
  local words=''
  if has lsof; then
    words=$(peek lsof -nP -iTCP:"$1" -sTCP:LISTEN 2>/dev/null | awk 'NR == 2 { print $1 " (process " $2 ")" }' || true)
  elif has ss; then
    words=$(ss -Hltnp "sport = :$1" 2>/dev/null | sed -n 's/.*users:((\(.*\))).*/\1/p' | head -n 1 || true)
  fi
  printf '%s' "${words:-by whom, only root can see}"
}

examine_clock() {
  local now
  now=$(date +%s)
  if [ "$now" -lt "$oldest_clock_s" ]; then
    fault "the clock says $(date), which is past; set it, or certificates and tokens will not be valid"
  elif has timedatectl && [ "$(timedatectl show -p NTPSynchronized --value 2>/dev/null)" = no ]; then
    warning "nothing keeps the clock right (timedatectl set-ntp true)"
  fi
}

examine_means() {
  examine_version
  examine_chip
  if ! may_all && { [ "$service" = yes ] || [ ! -w "$(nearest "$prefix/bin")" ]; } && ! has sudo; then
    fault "this is not root, and there is no sudo"
  fi
  case $binary in
    *://*) has curl || has wget || fault "neither curl nor wget is there, to fetch $binary" ;;
    ?*) [ -r "$binary" ] || fault "$binary cannot be read" ;;
  esac
  if ! has sha256sum && ! has shasum && ! has openssl; then
    fault "no program is there that makes a SHA-256 checksum (sha256sum, shasum or openssl)"
  fi
  if [ "$from_source" = yes ]; then
    if ! has cc; then fault "there is no C compiler; install one ($(compiler_hint))"; fi
    if ! has_cargo && ! has curl; then fault "neither cargo nor curl is there, to fetch the Rust toolchain"; fi
  fi
  if [ -e "$model" ] && ! [ -r "$model" ]; then fault "$model cannot be read"; fi
}

compiler_hint() {
  if [ "$os" = Darwin ]; then
    echo 'xcode-select --install'
  elif has apt-get; then
    echo 'apt-get install build-essential'
  else
    echo 'gcc or clang'
  fi
}

# ------------------------------------------------------------------------------------------------------ the binary

# Whoever called sudo builds; what root builds in somebody's checkout is in the way afterwards.
as_builder() {
  if [ "$(id -u)" -eq 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
    run sudo -u "$SUDO_USER" -H -- "$@"
  else
    run "$@"
  fi
}

builder_home() {
  if [ "$(id -u)" -eq 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
    sudo -u "$SUDO_USER" -H -- sh -c 'printf %s "$HOME"'
  else
    printf %s "${HOME:-/root}"
  fi
}

cargo_program() {
  if [ -x "$(builder_home)/.cargo/bin/cargo" ]; then
    printf %s "$(builder_home)/.cargo/bin/cargo"
  else
    command -v cargo
  fi
}

has_cargo() { cargo_program >/dev/null; }

built_program() { printf %s "${CARGO_TARGET_DIR:-$source_dir/target}/release/clawdbot"; }

is_archive() { [ "$(head -c 2 "$1" | od -An -tx1 | tr -d ' \n')" = 1f8b ]; }

# The program's name in an archive.
member_of() { tar -tzf "$1" | awk '/(^|\/)clawdbot$/ && !found { print; found = 1 }'; }

# The SHA-256 that a file must have.
expected_sha256() {
  if [ -n "$sha256" ]; then
    printf %s "$sha256"
  elif [ -r "$1.sha256" ]; then
    awk 'NR == 1 { print tolower($1) }' "$1.sha256"
  fi
}

verify() {
  local file=$1 expected found
  expected=$(expected_sha256 "$file")
  [ -n "$expected" ] || misuse "say its checksum: --sha256 HEX (sha256sum $file prints that of the file as it is)"
  found=$(digest_of "$file")
  [ "$found" = "$expected" ] ||
    fail "the checksum of $binary is wrong: $found, and not $expected; nothing of it was run. Fetch it again"
}

# The checksum of the program to be installed, as far as that can be told without fetching or building anything.
wanted_digest() {
  case $binary in
    '') ;;
    *://*) printf %s "$sha256" ;;
    *)
      if is_archive "$binary"; then
        tar -xzOf "$binary" "$(member_of "$binary")" | digest
      else
        digest_of "$binary"
      fi
      ;;
  esac
}

installed_digest() {
  if [ -e "$(at "$program")" ]; then digest_of "$(at "$program")"; fi
}

# Whether it is known already that the very same program is installed.
is_current() {
  local wanted
  wanted=$(wanted_digest)
  [ -n "$wanted" ] && [ "$wanted" = "$(installed_digest)" ]
}

# Brings the program into the staging directory, and sees that it is what it should be and runs here.
stage() {
  if [ "$mode" = act ]; then mktemp_staging; fi
  local file=$binary
  if [ "$from_source" = yes ]; then
    build
    file=$(built_program)
  else
    case $binary in
      *://*)
        step "fetches $binary"
        fetch "$binary" "${staging:-STAGING}/download"
        file=$staging/download
        ;;
    esac
    step "checks its checksum"
    # A file of ours is looked at in a dry run as well.
    if [ -f "$file" ] && [ "$trusted" = no ]; then verify "$file"; fi
  fi
  staged=${staging:-STAGING}/clawdbot
  [ "$mode" = act ] || return 0
  if is_archive "$file"; then
    local member
    member=$(member_of "$file")
    [ -n "$member" ] || fail "there is no program clawdbot in $file"
    tar -xzOf "$file" "$member" >"$staged"
  else
    cp "$file" "$staged"
  fi
  chmod 755 "$staged"
  if [ "$os" = Darwin ] && has xattr; then
    # A browser's mark, with which nothing but a click of a person could start it.
    xattr -d com.apple.quarantine "$staged" 2>/dev/null || true
  fi
  local version
  version=$("$staged" --version 2>&1) ||
    fail "the program does not run on this machine; nothing was changed. It says: ${version:-nothing}"
  case $version in
    'clawdbot '*) note "this is $version" ;;
    *) fail "this is not Clawdbot; it calls itself: $version" ;;
  esac
}

fetch() {
  if has curl; then
    run curl -fL -sS --retry 3 -o "$2" "$1"
  else
    run wget -q -O "$2" "$1"
  fi
}

build() {
  if ! has_cargo; then
    step "installs the Rust toolchain for $(builder_home), by https://sh.rustup.rs"
    fetch https://sh.rustup.rs "${staging:-STAGING}/rustup.sh"
    as_builder sh "${staging:-STAGING}/rustup.sh" -y --profile minimal --no-modify-path
  fi
  step "builds $source_dir, which takes a while unless nothing changed"
  local cargo
  cargo=$(cargo_program) || cargo=cargo
  as_builder "$cargo" build --release --locked --manifest-path "$source_dir/Cargo.toml"
}

# Has what was written to a directory reach the disk before it gets its name: after a power failure the name might be there,
# and nothing in it. Of that file system alone, since another one may hang; macOS can do all of them only, and says when it
# has begun.
flush() {
  if [ "$os" = Darwin ]; then
    [ "$mode" != act ] || sync
  else
    "$1" sync -f "$(at "$2")"
  fi
}

# Nobody ever sees half a program under its name.
place() {
  as_placer install -d -m 0755 "$(at "$prefix/bin")"
  as_placer install -m 0755 "$1" "$(at "$prefix/bin/.clawdbot.new")"
  flush as_placer "$prefix/bin"
  as_placer mv -f "$(at "$prefix/bin/.clawdbot.new")" "$(at "$program")"
}

# --------------------------------------------------------------------------------------- configuration and the rest

# A command of the program about the data directory.
clawdbot() { with_settings "$(at "$program")" "$@"; }

# The same of any program.
with_settings() {
  if [ "$config" = "$data_dir/clawdbot.toml" ]; then
    as_service "$@" --data-dir "$(at "$data_dir")"
  else
    as_service "$@" --data-dir "$(at "$data_dir")" --config "$(at "$config")"
  fi
}

in_data_dir() { peek test -e "$(at "$data_dir/$1")"; }

configure() {
  if peek test -e "$(at "$config")"; then
    already "the configuration $config, which is yours"
    if [ -n "$model" ]; then note "it stays as it is: put  model.path = \"$(model_name)\"  there yourself"; fi
    return 0
  fi
  # Nothing has been put there where the program was installed already.
  if [ "$mode" = act ]; then mktemp_staging; fi
  if [ -n "$first_config" ]; then
    step "copies $first_config to $config"
    if [ "$mode" = act ]; then cp "$first_config" "$staging/clawdbot.toml"; chmod 644 "$staging/clawdbot.toml"; fi
    put_configuration
    return 0
  fi
  bring_model
  step "writes a configuration to $config"
  if [ "$mode" = act ]; then configuration >"$staging/clawdbot.toml"; fi
  put_configuration
}

# Looked for again: who could not look into the data directory before has found none.
put_configuration() {
  # shellcheck disable=SC2016
  as_service sh -c '[ -e "$2" ] || install -m 0600 "$1" "$2"' sh "${staging:-STAGING}/clawdbot.toml" "$(at "$config")"
}

configuration() {
  cat <<TOML
# The settings of this Clawdbot. What does not stand here has its default, which \`clawdbot check --defaults\` explains.
# After a change: \`clawdbot check --data-dir $data_dir\`, and start the service anew.

[mqtt]
# Without encryption, for programs on this machine only.
tcp = "127.0.0.1:1883"
websocket = "127.0.0.1:8083"
# With encryption, for devices on private networks.
tls = "0.0.0.0:8883"
secure_websocket = "0.0.0.0:8084"

[model]
# "embedded" is the assistant that comes with the program. For one that talks, name a model of \`clawdbot model list\`.
path = "$(model_name)"

[metrics]
# GET /health and /metrics.
listen = "127.0.0.1:9464"
TOML
}

# What the model will be called.
model_name() {
  if [ -n "$model" ] && [ -e "$model" ]; then
    basename "$model" .gguf
  else
    printf %s "${model:-embedded}"
  fi
}

bring_model() {
  case $model in '' | embedded) return 0 ;; esac
  local name
  name=$(model_name)
  if [ "$mode" = act ] && clawdbot model show "$name" >/dev/null 2>&1; then
    already "the model $name"
    return 0
  fi
  if [ -e "$model" ]; then
    step "takes the model $model into $data_dir/models"
    clawdbot model import "$model" --name "$name" --copy
  else
    step "fetches the model $name from the Hugging Face hub"
    clawdbot model pull "$name"
  fi
  step "packs its weights, so that it starts quickly"
  # Otherwise the daemon packs them at its first start, or, as with f32, there is nothing to pack.
  clawdbot model quantize "$name" || note "they stay as they are until its first start"
}

certificates() {
  if in_data_dir certs/ca.pem; then
    already "certificates in $data_dir/certs"
  elif [ -n "$(setting mqtt tls_certificate '')" ]; then
    already "a certificate of your own, in the configuration"
  else
    step "makes a private authority and a certificate for TLS"
    clawdbot certs init
  fi
}

check() {
  [ "$mode" = tell ] || note "checks the configuration"
  clawdbot check || fail "the configuration is not right; mend what stands above and run this again"
}

# Writes the description of the service, with its user and its data directory. Starts nothing.
describe_service() {
  set -- "$(at "$program")" service install --no-start --program "$program" --user "$user" --data-dir "$data_dir"
  [ "$config" = "$data_dir/clawdbot.toml" ] || set -- "$@" --config "$config"
  if [ -z "$root" ]; then
    as_root "$@"
    return
  fi
  # Below another root it only writes.
  as_root "$@" --root "$root" && as_root install -d -m 0700 "$(at "$data_dir")" || return
  [ "$os" = Darwin ] || { as_root systemctl daemon-reload && as_root systemctl enable clawdbot; }
}

allow_in_firewall() {
  if [ "$os" != Darwin ] || [ "$firewall" = no ]; then return 0; fi
  local tool=socketfilterfw
  has "$tool" || tool=/usr/libexec/ApplicationFirewall/socketfilterfw
  if ! has "$tool"; then
    note "the application firewall's program is not where it should be; look into System Settings, Network, Firewall"
    return 0
  fi
  # A program that was exchanged is asked about anew.
  if [ "${1:-}" != again ] && "$tool" --getglobalstate | grep enabled >/dev/null &&
    "$tool" --listapps | grep -F "$program" >/dev/null; then
    already "the application firewall lets $program be reached"
    return 0
  fi
  step "switches the application firewall on, and lets $program be reached (asks first)"
  if [ "$mode" = act ] && ! ask "Switch the application firewall on, and let Clawdbot through?"; then return 0; fi
  as_root "$tool" --setglobalstate on
  as_root "$tool" --add "$program"
  as_root "$tool" --unblockapp "$program"
}

# Three looks that are one second apart: a daemon that falls over and over again may be up at one of them.
wait_until_healthy() {
  [ "$mode" = act ] || return 0
  local waited=0 limit=$wait_s good=0 state=silent
  answered=no
  find_health
  while [ "$waited" -lt "$limit" ]; do
    state=$(health)
    [ "$state" = silent ] || answered=yes
    case $state in
      healthy)
        good=$((good + 1))
        [ "$good" -lt 3 ] || return 0
        ;;
      starting)
        good=0
        if [ "$limit" -eq "$wait_s" ]; then
          limit=$((wait_s * 5))
          note "its model is being packed or loaded; waits up to $limit s"
        fi
        ;;
      *) good=0 ;;
    esac
    if service_gave_up; then
      note "the service gave up"
      return 1
    fi
    if [ "$(falls)" -ge 3 ]; then
      note "it falls again and again"
      return 1
    fi
    sleep 1
    waited=$((waited + 1))
    if [ $((waited % 10)) -eq 0 ]; then note "$waited s, and it is $state"; fi
  done
  note "it is not healthy after $waited s ($state)"
  return 1
}

show_log() {
  say "The last lines of its log:"
  if [ "$os" = Darwin ]; then
    peek tail -n 20 "$(at /usr/local/var/log/clawdbot/clawdbot.log)" 2>/dev/null | sed 's/^/    /' || true
  else
    peek journalctl -u clawdbot -n 20 --no-pager 2>/dev/null | sed 's/^/    /' || true
  fi
}

# How somebody types a command of the program about the service's data.
typed() {
  local as=''
  if [ "$service" = yes ]; then
    if has sudo; then as="sudo -u $user "; else as="runuser -u $user -- "; fi
  fi
  printf '%s%s %s --data-dir %q' "$as" "$program" "$*" "$data_dir"
}

# --------------------------------------------------------------------------------------------------------- install

put_program() {
  if is_current; then
    already "the program $program"
    return 0
  fi
  stage
  if [ "$mode" = act ] && [ "$(digest_of "$staged")" = "$(installed_digest)" ]; then
    already "the program $program"
  elif [ -e "$(at "$program")" ]; then
    exchange
  else
    step "installs $program"
    place "$staged"
  fi
}

install_steps() {
  put_program
  if [ "$service" = yes ]; then
    if [ "$(service_program)" = "$program" ] && [ "$(service_flag --data-dir)" = "$data_dir" ]; then
      if service_is_enabled; then
        already "the service, $service_file"
      else
        step "has the service started with the machine"
        as_root systemctl enable clawdbot
      fi
    else
      step "installs the service $service_file, with the user $user and the data directory $data_dir"
      if service_runs; then stop_service; fi
      describe_service
    fi
  else
    if ! in_data_dir .; then
      step "makes the data directory $data_dir"
      run install -d -m 0700 "$(at "$data_dir")"
    fi
  fi
  configure
  certificates
  # What is healthy was checked by whoever started it.
  if [ "$service" = yes ] && service_runs; then
    already "the service runs"
  else
    check
    if [ "$service" = yes ]; then
      step "starts the service, and waits until it is healthy"
      start_service
    fi
  fi
  allow_in_firewall
}

install_it() {
  [ -n "$binary" ] || [ "$from_source" = yes ] || choose_source
  examine
  agree install_steps
  if [ "$steps" -eq 0 ]; then
    install_steps
  fi
  [ "$mode" = act ] || return 0
  if [ "$service" = yes ]; then
    if ! wait_until_healthy; then
      show_log
      complain "installed, but not healthy; $(typed doctor)  says what is wrong. Mend that and run this again"
      exit 1
    fi
    if [ "$steps" -eq 0 ]; then
      say "Everything is installed already, and healthy."
    else
      say "Clawdbot runs, and is healthy."
    fi
  elif [ "$steps" -eq 0 ]; then
    say "Everything is installed already."
  fi
  next_steps
}

# Tells what will be done, from the very code that does it, and asks for the owner's word. Then does it.
agree() {
  steps=0
  if [ "$dry_run" = yes ]; then
    say "What would be done:"
    mode=show
    "$@"
    if [ "$steps" -eq 0 ]; then say "Nothing: everything is installed already."; fi
    return 0
  fi
  mode=tell
  say "What will be done:"
  "$@"
  mode=act
  if [ "$steps" -eq 0 ]; then
    note "nothing"
    return 0
  fi
  [ "$assume_yes" = yes ] || [ -t 0 ] || fail "there is no terminal to ask at; say --yes if all this may be done"
  ask "Go on?" || fail "nothing was changed"
  say "Now:"
  steps=0
  "$@"
}

next_steps() {
  [ "$steps" -gt 0 ] || return 0
  say ""
  if [ "$service" = no ]; then say "Start it:              $(typed serve)"; fi
  say "Ask it something:      $(typed ask '"turn off the lights in the kitchen"')"
  say "Pair the first device: $(typed device pair kitchen)   (shows a code, and a QR code)"
  say "Devices need once:     $data_dir/certs/ca.pem"
  say "See how it is doing:   $(typed doctor)"
  case ":$PATH:" in *":$prefix/bin:"*) ;; *) say "($prefix/bin is not in your PATH.)" ;; esac
}

# Without a word about it: the program of the archive that this script came in, or the checkout that it lies in.
choose_source() {
  local place
  for place in "$here/clawdbot" "$here/../../clawdbot"; do
    if [ -f "$place" ] && [ -x "$place" ] && [ -z "$source_dir" ]; then
      binary=$(cd "$(dirname "$place")" && pwd -P)/clawdbot
      # Who unpacked the archive runs this script out of it already.
      trusted=yes
      return 0
    fi
  done
  [ -n "$source_dir" ] || misuse "say what to install: --binary PATH|URL --sha256 HEX"
  from_source=yes
}

# --------------------------------------------------------------------------------------------------------- upgrade

upgrade_it() {
  [ -e "$(at "$program")" ] || fail "$program is not there, so there is nothing to upgrade; install it first"
  [ -n "$binary" ] || [ "$from_source" = yes ] || choose_source
  examine
  agree put_program
  if [ "$steps" -eq 0 ]; then say "This very program is installed already."; fi
}

rollback_it() {
  local former=$prefix/bin/clawdbot.previous
  if was_cut_off; then
    agree take_back
    return
  fi
  [ -e "$(at "$former")" ] || fail "there is no former program ($former); no upgrade was made, or it was rolled back"
  agree rollback_steps "$former"
}

# An empty file is a program as well, which ends well and says nothing.
is_clawdbot() {
  case $("$(at "$1")" --version 2>/dev/null || true) in 'clawdbot '*) ;; *) return 1 ;; esac
}

# Left by an upgrade that was cut off, by a power failure perhaps.
was_cut_off() { [ -e "$(at "$prefix/bin/.clawdbot.undo")" ]; }

# As that upgrade would have been taken back: with the store of before, where the former program wants that. It is no exchange:
# that would put the failed program and its store over the only copies of those of before.
take_back() {
  if [ "$mode" != act ]; then
    step "takes back the upgrade that was cut off: puts the former program back, and waits until it is healthy"
    return 0
  fi
  if in_data_dir store.redb.before-upgrade; then store_copied=yes; fi
  # Nobody knows how it was then; an upgrade is begun on one that is well, as a rule.
  was_healthy=yes
  undo
}

rollback_steps() {
  step "takes $1"
  if [ "$mode" = act ]; then
    mktemp_staging
    cp "$(at "$1")" "$staging/clawdbot"
  fi
  staged=${staging:-STAGING}/clawdbot
  exchange
}

# An upgrade may be what mends it. But one that was unwell before is no sign of a bad program if it is unwell after, and
# then there is no better state to go back to.
note_health() {
  [ "$mode" = act ] || return 0
  find_health
  local state
  state=$(health)
  if [ "$state" = healthy ]; then
    was_healthy=yes
    return 0
  fi
  note "the service is not healthy as it is ($state), so nothing tells a good upgrade from a bad one"
  ask "Go on nevertheless?" || fail "nothing was changed"
}

# Puts another program in the place of the one that runs, and takes that back where it does not become healthy.
exchange() {
  if ! has_service; then
    step "installs $program; the former is kept as $program.previous"
    as_placer cp -p "$(at "$program")" "$(at "$program.previous")"
    place "$staged"
    return 0
  fi
  ! was_cut_off || fail "an upgrade was cut off before this; take that back first: deploy.sh rollback"
  step "checks the configuration with that program"
  with_settings "$staged" check || fail "that program does not like the configuration; nothing was changed"
  back_up
  note_health
  step "stops the service, and copies its store aside"
  # Left beside a store by an upgrade of before: it must not be taken for this one's, should this one be cut off.
  as_service rm -f "$(at "$data_dir/store.redb.before-upgrade")"
  # What undo puts back is the whole program, or nothing yet.
  if ! as_root cp -p "$(at "$program")" "$(at "$prefix/bin/.clawdbot.undo.part")"; then
    as_root rm -f "$(at "$prefix/bin/.clawdbot.undo.part")"
    fail "the program could not be copied aside; nothing was changed"
  fi
  flush as_root "$prefix/bin"
  as_root mv -f "$(at "$prefix/bin/.clawdbot.undo.part")" "$(at "$prefix/bin/.clawdbot.undo")"
  [ "$mode" != act ] || unconfirmed=yes
  stop_service
  copy_store
  step "installs $program; the former is kept as $program.previous"
  place "$staged"
  step "starts the service, and waits until it is healthy; if it does not become so, the former program comes back"
  # Not to be left at a failure: what follows is the way back.
  if describe_service && start_service && wait_until_healthy; then
    as_root mv -f "$(at "$prefix/bin/.clawdbot.undo")" "$(at "$program.previous")"
    unconfirmed=no
    if [ "$store_copied" = yes ]; then as_service rm -f "$(at "$data_dir/store.redb.before-upgrade")"; fi
    allow_in_firewall again
    [ "$mode" != act ] || say "$("$(at "$program")" --version) runs, and is healthy."
    return 0
  fi
  complain "the new program did not become healthy"
  show_log
  undo || exit 1
  exit 1
}

# The former program, with the store as it is; and where that does not start any more, because the new program made a
# store of a newer form of it, which an older program refuses, with the store as it was. One that answers has opened its
# store, and one that was unwell before may be silent for another reason: neither loses what came in meanwhile.
undo() {
  unconfirmed=no
  mode=act
  # It ran before; a machine that is busy is no reason to give it up as well.
  [ "$wait_s" -ge 60 ] || wait_s=60
  step "puts the former program back"
  if [ -e "$(at "$prefix/bin/.clawdbot.undo")" ] && ! is_clawdbot "$prefix/bin/.clawdbot.undo"; then
    as_root mv -f "$(at "$prefix/bin/.clawdbot.undo")" "$(at "$prefix/bin/.clawdbot.undo.bad")" || return 1
    complain "the copy of the former program does not run (it says: $("$(at "$prefix/bin/.clawdbot.undo.bad")" --version 2>&1 || true)), and is put aside as $prefix/bin/.clawdbot.undo.bad; $program stays as it is. Put a good one in its place: deploy.sh upgrade --binary PATH|URL --sha256 HEX"
    if in_data_dir store.redb.before-upgrade; then
      complain "the store of before that upgrade is $data_dir/store.redb.before-upgrade; copy it away before the next one"
    fi
    return 1
  fi
  stop_service || true
  if [ -e "$(at "$prefix/bin/.clawdbot.undo")" ]; then
    as_root mv -f "$(at "$prefix/bin/.clawdbot.undo")" "$(at "$program")" || return 1
  fi
  if describe_service && start_service && wait_until_healthy; then
    complain "rolled back: the former program runs, and is healthy"
    [ "$store_copied" = no ] || as_service rm -f "$(at "$data_dir/store.redb.before-upgrade")"
    return 0
  fi
  if [ "$store_copied" = yes ] && { [ "$was_healthy" = no ] || [ "$answered" = yes ]; }; then
    complain "its store stays as it is; that of before the upgrade is $data_dir/store.redb.before-upgrade"
  elif [ "$store_copied" = yes ]; then
    step "puts the store of before back, too; that of the new program is $data_dir/store.redb.of-failed-upgrade"
    stop_service || true
    as_service mv -f "$(at "$data_dir/store.redb")" "$(at "$data_dir/store.redb.of-failed-upgrade")" || return 1
    as_service mv -f "$(at "$data_dir/store.redb.before-upgrade")" "$(at "$data_dir/store.redb")" || return 1
    if start_service && wait_until_healthy; then
      complain "rolled back: the former program runs on the store of before the upgrade, and is healthy"
      return 0
    fi
  fi
  show_log
  complain "the former program is back, but not healthy either; $(typed doctor)  says what is wrong"
  return 1
}

# Stopped, the store is a file like any other. In its directory only the service's user writes, never root: whoever is in
# the service could have put a link there.
copy_store() {
  if ! in_data_dir store.redb; then return 0; fi
  local mib
  mib=$(peek du -m "$(at "$data_dir/store.redb")" | cut -f 1)
  if [ "$(free_mib "$data_dir")" -lt $((mib + 256)) ]; then
    note "there is no room to copy the store ($mib MiB); only the backup can bring it back"
    return 0
  fi
  as_service cp -p "$(at "$data_dir/store.redb")" "$(at "$data_dir/store.redb.before-upgrade.part")"
  flush as_service "$data_dir"
  as_service mv -f "$(at "$data_dir/store.redb.before-upgrade.part")" "$(at "$data_dir/store.redb.before-upgrade")"
  [ "$mode" != act ] || store_copied=yes
}

back_up() {
  [ "$backup" = yes ] || return 0
  is_clawdbot "$program" ||
    fail "$program does not run, so no backup can be made, and nothing was changed. --no-backup upgrades without"
  step "makes a backup in $data_dir/backups"
  as_service install -d -m 0700 "$(at "$data_dir/backups")"
  # Where nobody has seen the key yet, it says so, or prints it on a terminal.
  clawdbot backup create --directory "$(at "$data_dir/backups")" ||
    fail "no backup could be made; nothing was changed. --no-backup upgrades without"
  [ -t 1 ] || note "$(typed backup key show)  prints the key that opens it"
}

# ------------------------------------------------------------------------------------------------ uninstall, status

uninstall_it() {
  if [ "$purge" = yes ]; then guard_purge; fi
  agree uninstall_steps
  if [ "$steps" -eq 0 ]; then
    say "Nothing is installed."
  elif [ "$mode" = act ]; then
    say "Uninstalled."
  fi
  if peek test -d "$(at "$data_dir")"; then
    say "The data is in $data_dir (keys, certificates, the store, models); deploy.sh uninstall --purge removes it."
  fi
}

uninstall_steps() {
  # Before anything is done: whoever says no has all of it still.
  if [ "$purge" = yes ] && peek test -d "$(at "$data_dir")"; then confirm_purge; fi
  if has_service; then
    step "stops the service and removes $service_file"
    if [ -n "$root" ]; then
      stop_service
      [ "$os" = Darwin ] || as_root systemctl disable clawdbot
      as_root rm -f "$(at "$service_file")"
    elif [ -x "$program" ]; then
      as_root "$program" service uninstall
    else
      stop_service
      [ "$os" = Darwin ] || as_root systemctl disable clawdbot
      as_root rm -f "$service_file"
    fi
    [ "$os" = Darwin ] || as_root systemctl daemon-reload
  fi
  local file
  for file in "$program" "$program.previous" "$prefix/bin/.clawdbot.undo" \
    "$prefix/bin/.clawdbot.undo.part" "$prefix/bin/.clawdbot.undo.bad" "$prefix/bin/.clawdbot.new"; do
    if [ -e "$(at "$file")" ]; then
      step "removes $file"
      as_placer rm -f "$(at "$file")"
    fi
  done
  if [ "$purge" = yes ] && peek test -d "$(at "$data_dir")"; then
    step "removes $data_dir with everything in it: keys, certificates, conversations, models, backups"
    if [ "$service" = no ]; then run rm -rf "$(at "$data_dir")"; else as_root rm -rf "$(at "$data_dir")"; fi
    if [ "$service" = yes ] && id "$user" >/dev/null 2>&1; then
      step "removes the user $user"
      if [ "$os" = Darwin ]; then
        as_root dscl . -delete "/Users/$user"
        as_root dscl . -delete "/Groups/$user" || true
      else
        as_root userdel "$user"
      fi
    fi
  fi
}

# What is not certainly ours is not removed.
guard_purge() {
  case $data_dir in
    /*/*) ;;
    *) fail "$data_dir is too near the root of the disk to be removed; remove it yourself if it is meant" ;;
  esac
  if ! peek test -d "$(at "$data_dir")"; then return 0; fi
  local name marks=0 strangers=''
  for name in keys certs clawdbot.toml store.redb; do
    if in_data_dir "$name"; then marks=$((marks + 1)); fi
  done
  [ "$marks" -ge 2 ] || { has_service && [ "$(service_flag --data-dir)" = "$data_dir" ]; } ||
    fail "$data_dir does not look like a data directory of Clawdbot, so it is not removed"
  # A service may have been given a disk that others use as well.
  strangers=$(peek ls -A "$(at "$data_dir")" | awk '
    !/^(keys|certs|models|packed|backups|disk-probe|store\.redb.*|clawdbot\..*|clawdbot-.*\.backup|mqtt\.sock|.*\.log|\..*)$/ {
      printf " %s", $0
    }')
  [ -z "$strangers" ] ||
    fail "$data_dir has what is not of Clawdbot, so it is not removed; move that away first:$strangers"
}

confirm_purge() {
  if [ "$mode" != act ] || [ "$assume_yes" = yes ]; then return 0; fi
  local answer=''
  printf 'This cannot be taken back. Type the word "delete" to remove %s: ' "$data_dir"
  read -r answer || true
  [ "$answer" = delete ] || fail "nothing was changed"
}

status_it() {
  local state
  if [ ! -e "$(at "$program")" ]; then
    say "program:   not installed ($program)"
    exit 1
  fi
  say "program:   $program, $("$(at "$program")" --version)"
  if [ -e "$(at "$program.previous")" ]; then
    say "previous:  $program.previous, $("$(at "$program.previous")" --version 2>&1 || true)"
  fi
  if was_cut_off; then
    say "upgrade:   was cut off; to take it back: deploy.sh rollback"
  fi
  if ! has_service; then
    say "service:   not installed"
  elif service_runs; then
    say "service:   runs ($service_file)"
  else
    say "service:   does not run ($service_file)"
  fi
  if has_service && ! service_is_enabled; then
    say "service:   is not started with the machine; deploy.sh, run again, sees to that"
  fi
  say "data:      $data_dir"
  find_health
  state=$(health)
  say "health:    $state"
  [ "$state" = healthy ] || exit 1
}

# ---------------------------------------------------------------------------------------------------------- options

need() { [ "$2" -ge 2 ] || misuse "$1 needs a value"; }

absolute() {
  case $1 in
    /* | *://*) printf %s "$1" ;;
    *) printf '%s/%s' "$PWD" "$1" ;;
  esac
}

# Read to its end before anything happens: this file may be exchanged meanwhile, by the very upgrade.
main() {
  while [ $# -gt 0 ]; do
    case $1 in
      install | upgrade | rollback | uninstall | status) command=$1 ;;
      --binary) need "$1" $#; binary=$(absolute "$2"); shift ;;
      --sha256) need "$1" $#; sha256=$(printf %s "$2" | tr A-F a-f); shift ;;
      --from-source) from_source=yes ;;
      --model) need "$1" $#; model=$2; shift ;;
      --config) need "$1" $#; first_config=$(absolute "$2"); shift ;;
      --data-dir) need "$1" $#; data_dir=$(absolute "$2"); shift ;;
      --prefix) need "$1" $#; prefix=$(absolute "$2"); shift ;;
      --wait) need "$1" $#; wait_s=$2; shift ;;
      --yes) assume_yes=yes ;;
      --dry-run) dry_run=yes ;;
      --no-service) service=no ;;
      --no-firewall) firewall=no ;;
      --no-backup) backup=no ;;
      --purge) purge=yes ;;
      -h | --help) usage; exit 0 ;;
      *) misuse "$1 is not known" ;;
    esac
    shift
  done

  case $sha256 in
    '') ;;
    *[!0-9A-Fa-f]*) misuse "--sha256 takes 64 hexadecimal digits" ;;
    *) [ "${#sha256}" -eq 64 ] || misuse "--sha256 takes 64 hexadecimal digits" ;;
  esac
  case $wait_s in '' | *[!0-9]* | 0) misuse "--wait takes seconds" ;; esac
  case $data_dir$prefix in
    *[!A-Za-z0-9/._+@-]*) misuse "--data-dir and --prefix are of letters, digits and / . _ + @ - only" ;;
  esac
  [ -z "$binary" ] || [ "$from_source" = no ] || misuse "--binary and --from-source exclude each other"
  [ -z "$first_config" ] || [ -r "$first_config" ] || misuse "$first_config cannot be read"
  [ -z "$first_config" ] || [ -z "$model" ] || misuse "with --config, the model stands in that file (model.path)"
  [ "$purge" = no ] || [ "$command" = uninstall ] || misuse "--purge goes with uninstall"
  case $binary in *://*) [ -n "$sha256" ] || misuse "what is fetched needs its checksum: --sha256 HEX" ;; esac
  if [ -n "$model" ] && [ -e "$model" ]; then model=$(absolute "$model"); fi

  os=$(uname -s)
  machine=$(uname -m)
  trusted=no
  label=local.clawdbot
  if [ "$os" = Darwin ]; then
    service_file=/Library/LaunchDaemons/$label.plist
    user=_clawdbot
    default_data_dir=/usr/local/var/clawdbot
  else
    service_file=/etc/systemd/system/clawdbot.service
    user=clawdbot
    default_data_dir=/var/lib/clawdbot
  fi
  if [ "$service" = no ]; then
    default_data_dir=${HOME:-/root}/.local/share/clawdbot
    [ "$os" != Darwin ] || default_data_dir="$HOME/Library/Application Support/clawdbot"
  else
    installed_program=$(service_program)
    case $installed_program in */bin/clawdbot) prefix=${prefix:-${installed_program%/bin/clawdbot}} ;; esac
    installed_data_dir=$(service_flag --data-dir)
    installed_user=$(service_user)
    config=$(service_flag --config)
    default_data_dir=${installed_data_dir:-$default_data_dir}
    user=${installed_user:-$user}
  fi
  prefix=${prefix:-/usr/local}
  prefix=${prefix%/}
  program=$prefix/bin/clawdbot
  data_dir=${data_dir:-$default_data_dir}
  data_dir=${data_dir%/}
  config=${config:-$data_dir/clawdbot.toml}
  # What the service's file has was not seen above, and is written there in ways that are not read here.
  if [ "$service" = yes ]; then
    case $data_dir$prefix$config$user in
      *[!A-Za-z0-9/._+@-]*)
        fail "the paths in $service_file ($prefix, $data_dir, $config) have characters other than letters, digits and \
/ . _ + @ -, with which this script does not work; \`clawdbot service\` does"
        ;;
    esac
  fi

  source_dir=''
  for place in "$here/../.." "$here/.."; do
    if [ -f "$place/Cargo.toml" ] && grep -q '^name = "clawdbot"' "$place/Cargo.toml"; then
      source_dir=$(cd "$place" && pwd -P)
      break
    fi
  done
  [ "$from_source" = no ] || [ -n "$source_dir" ] || misuse "--from-source works in a checkout, and $here is in none"

  # The service does not see what is set here, so neither may the commands that look after it.
  for name in $(env | sed -n 's/^\(CLAWDBOT__[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done

  trap ending EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # The service's user may not enter where this was called.
  cd /

  case $command in
    install) install_it ;;
    upgrade) upgrade_it ;;
    rollback) rollback_it ;;
    uninstall) uninstall_it ;;
    status) status_it ;;
  esac
  [ -z "$faults" ] || exit 1
  exit 0
}

main "$@"
