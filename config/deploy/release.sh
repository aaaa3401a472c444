#!/usr/bin/env bash
# Builds what is given to others: the stripped program in an archive with its manual pages, completions, licences,
# examples and the script that installs it, and the archive's checksum. Twice from one commit with one toolchain it is
# the same archive byte by byte. For this machine's kind of processor and system; bash 3.2 and macOS's own tools will do.
#
#   BINARY             a program that is built already [default: built here with the profile "dist"]
#   TRIPLE             what it runs on, for the archive's name [default: this machine, as rustc says]
#   OUT                where the archive goes [default: dist/ in the target directory]
#   SOURCE_DATE_EPOCH  the time of every file in it [default: that of the commit]
set -euo pipefail
cd "$(dirname "$0")/../.."
umask 022
export LC_ALL=C TZ=UTC
# Otherwise the tar of macOS packs extended attributes, which differ from machine to machine, as files beside the others.
export COPYFILE_DISABLE=1

fail() {
  echo "release.sh: $1" >&2
  exit "${2:-1}"
}

has() {
  command -v "$1" >/dev/null 2>&1
}

# As sha256sum prints it, which `sha256sum -c` and `shasum -a 256 -c` take.
sha256() {
  if has sha256sum; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# The texts that the licences of everything in the program want beside it, each once, with whom it is of.
third_party() {
  local sources="${CARGO_HOME:-$HOME/.cargo}/registry/src" crate version file sum
  echo "What is in this program besides its own code, under which licences:"
  echo
  # Our own are named by their path, and repeated ones by a star.
  cargo tree --package clawdbot --locked --edges normal,no-proc-macro --prefix none --format '{p} | {l}' >"$work/tree"
  sed -e 's/ (\*)$//' "$work/tree" | grep -v -e ' (/' -e '^$' | sort -u | tee "$work/crates"
  # "name v1.2.3 | …" is in the folder name-1.2.3.
  sed -e 's/ |.*//' -e 's/ v/ /' "$work/crates" | while read -r crate version; do
    for file in "$sources"/*/"$crate-$version"/{LICENSE,LICENCE,COPYING,NOTICE,UNLICENSE}*; do
      if [ -f "$file" ]; then
        sum=$(sha256 <"$file")
        echo "${sum%% *} $crate $version $file"
      fi
    done
  done | sort >"$work/texts"
  [ -s "$work/texts" ] || fail "the sources of what is built in are not in $sources; run: cargo fetch --locked" 2
  cut -d ' ' -f 1 "$work/texts" | uniq | while read -r sum; do
    echo
    echo "================================================================================"
    grep "^$sum " "$work/texts" | cut -d ' ' -f 2,3 | uniq
    echo "--------------------------------------------------------------------------------"
    cat "$(grep -m 1 "^$sum " "$work/texts" | cut -d ' ' -f 4-)"
  done
}

version=$(sed -n '/^\[workspace\.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
[ -n "$version" ] || fail "Cargo.toml names no version"
triple=${TRIPLE:-}
if [ -z "$triple" ]; then
  triple=$(rustc -vV | sed -n 's/^host: //p')
fi
epoch=${SOURCE_DATE_EPOCH:-}
if [ -z "$epoch" ]; then
  epoch=$(git log -1 --format=%ct) || fail "this is no clone of a repository; set SOURCE_DATE_EPOCH" 2
  if [ -n "$(git status --porcelain)" ]; then
    echo "release.sh: some files here are not as committed; what is built is of no commit" >&2
  fi
fi
target=${CARGO_TARGET_DIR:-target}
out=${OUT:-$target/dist}
binary=${BINARY:-}
if [ -z "$binary" ]; then
  cargo build --profile dist --locked --bin clawdbot
  binary=$target/dist/clawdbot
fi
[ -f "$binary" ] || fail "$binary is not there" 2
said=$("$binary" --version) || fail "$binary does not run here" 2
[ "$said" = "clawdbot $version" ] || fail "$binary says that it is $said, and not clawdbot $version" 2

work=$(mktemp -d "${TMPDIR:-/tmp}/clawdbot-release.XXXXXX")
trap 'rm -rf "$work"' EXIT
name=clawdbot-$version-$triple
stage=$work/$name
mkdir -p "$stage/completions" "$stage/LICENSES"

cp "$binary" "$stage/clawdbot"
cp README.md CHANGELOG.md "$stage/"
if [ -f README.zh-CN.md ]; then cp README.zh-CN.md "$stage/"; fi
cp LICENSE-MIT LICENSE-APACHE "$stage/LICENSES/"
third_party >"$stage/LICENSES/THIRD-PARTY.txt"
# Examples, alert rules, the dashboard, and deploy.sh with what it reads.
if git rev-parse --git-dir >/dev/null 2>&1; then
  # Only what is committed: who tried an example here has left a device's password beside it, which git ignores.
  git ls-files -z -- config >"$work/config"
  [ -s "$work/config" ] || fail "git knows of nothing in config/"
  while IFS= read -r -d '' file; do
    mkdir -p "$stage/$(dirname "$file")"
    cp "$file" "$stage/$file"
  done <"$work/config"
elif [ -e .git ]; then
  fail "git does not work in this clone, so what of config/ is committed is not known; git status says why" 2
else
  cp -R config "$stage/config"
fi
rm -f "$stage/config/deploy/release.sh"
old="$binary is of this version and yet has no such command; build it anew"
"$binary" completions bash >"$stage/completions/clawdbot.bash" || fail "$old"
"$binary" completions zsh >"$stage/completions/_clawdbot" || fail "$old"
"$binary" completions fish >"$stage/completions/clawdbot.fish" || fail "$old"
"$binary" man "$stage/man/man1" || fail "$old"

# The same modes and times whoever packs it, whenever, and the names in one order.
find "$stage" -type d -exec chmod 755 {} +
find "$stage" -type f -exec chmod 644 {} +
chmod 755 "$stage/clawdbot"
find "$stage" -name '*.sh' -exec chmod 755 {} +
if date -u -d "@$epoch" >/dev/null 2>&1; then
  moment=$(date -u -d "@$epoch" +%Y%m%d%H%M.%S)
else
  moment=$(date -u -r "$epoch" +%Y%m%d%H%M.%S)
fi
(cd "$work" && find "$name" | sort >names)
find "$stage" -exec touch -t "$moment" {} +
if tar --version 2>/dev/null | grep GNU >/dev/null; then
  owner="--owner=root:0 --group=root:0"
else
  owner="--uid 0 --gid 0 --uname root --gname root"
fi
# shellcheck disable=SC2086 # the owner's flags are words
tar -C "$work" -cf "$work/$name.tar" --format=ustar --no-recursion $owner -T "$work/names"
gzip -9 -n "$work/$name.tar"

mkdir -p "$out"
cp "$work/$name.tar.gz" "$out/"
(cd "$out" && sha256 "$name.tar.gz" >"$name.tar.gz.sha256")
echo "$out/$name.tar.gz"
cat "$out/$name.tar.gz.sha256"
