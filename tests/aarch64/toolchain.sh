# What the scripts for other systems have in common; not to be run. A compiler for another target is rustup's, where its
# owner has added that target, and else Debian's (rustc-web), which is new enough and comes with what rustup would fetch.

# Says what is not tested, and that is the end. In a run for CI nothing may be skipped.
skip() {
  echo "SKIPPED: $1" >&2
  case "${CI:-}" in '' | 0 | false) exit 0 ;; *) exit 1 ;; esac
}

has() {
  command -v "$1" >/dev/null 2>&1
}

# Installs Debian's packages, those of arm64 too, if this is Debian and it is for us to do.
install_packages() {
  has apt-get || return 1
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    # Never a question in the middle of a run.
    sudo -n true 2>/dev/null || return 1
    as_root=(sudo -n)
  fi
  echo "$0: installing $*"
  # Before bash 4.4 an empty array counts as unset. Lists of other sources may lack arm64: no reason to stop.
  ${as_root[@]+"${as_root[@]}"} dpkg --add-architecture arm64 || return 1
  ${as_root[@]+"${as_root[@]}"} apt-get update -qq || true
  ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Whether a compiler has a target's standard library.
has_target() {
  local library
  library=$("$1" --print target-libdir --target "$2" 2>/dev/null) && ls "$library"/libstd-*.rlib >/dev/null 2>&1
}

# Has cargo use Debian's compiler. It must be as new as the workspace asks for.
use_debians_compiler() {
  export RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$workspace/Cargo.toml")
  found=$("$RUSTC" --version | cut -d ' ' -f 2)
  if [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
    skip "Debian's compiler is $found, and $wanted is needed"
  fi
}
