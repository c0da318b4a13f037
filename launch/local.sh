#!/usr/bin/env bash
# Trains on this machine; needs only Python 3.11 or newer, or uv:
#
#   bash launch/local.sh               train configs/quickstart.py on all devices
#   bash launch/local.sh ARGUMENTS     run `jaxdp ARGUMENTS`, e.g. `devices`
#   bash launch/local.sh --dry_run ... print the commands instead (or JAXDP_DRY_RUN=1)
#
# The first run creates the environment (see environment.sh); later runs reuse it.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
while is_common_option "${1:-}"; do shift; done

make_environment "$(hardware_extra)"
[ $# -eq 0 ] || become jaxdp "$@"

# Paths that are valid in the current directory.
prefix=""
[ "$PWD" = "$REPOSITORY" ] || prefix=$REPOSITORY/
config=${prefix}configs/quickstart.py
workdir=${prefix}runs/quickstart

execute jaxdp train --config="$config" --workdir="$workdir"
say "a sample of generated text:"
execute jaxdp generate --workdir="$workdir" --prompt="def " --max_new_tokens=300 --temperature=0.7
say "the loss plot:"
execute jaxdp plot "$workdir"
printf '\nTo try next:\n'
next() { printf '  bash %s\n' "$(show_command "${prefix}launch/local.sh" "$@")"; }
next generate --workdir="$workdir" --prompt="class " --num_samples=3
next train --config="$config" --config.data.source=text --config.data.path=FILE --workdir="${prefix}runs/mine"
next inspect "$workdir"
