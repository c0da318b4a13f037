#!/usr/bin/env bash
# Trains on GKE with one process per node; prints the JobSet, filled in from launch/gke.yaml:
#
#   bash launch/gke.sh OPTIONS -- train --config=FILE --workdir=DIR ... | kubectl apply -f -
#
#   --image=IMAGE         image built from launch/Dockerfile
#   --gpu=TYPE:COUNT      type and number of the GPUs of a node, e.g. nvidia-h100-80gb:8
#   --hosts=N             number of nodes; default 1. TPUs: follows from the topology.
#   --tpu=TYPE:TOPOLOGY[:CHIPS]    type, topology and chips per node (default 4) of a TPU slice,
#                         e.g. tpu-v5-lite-podslice:4x4
#   --name=NAME           name of the run on the cluster; default jaxdp
#   --claim=CLAIM         persistent volume claim mounted at /runs, writable from all nodes;
#                         needed unless DIR is in object storage
#   --spot                use spot nodes
#   --grace=SECS          time between SIGTERM and the kill of a pod, which the run receives as
#                         checkpoint.grace_secs unless the arguments have it. Default 300; with
#                         --spot the run receives 15, which is what a spot node leaves to pods.
#   --restarts=R          maximum number of restarts after exit codes 70, 134 and 137; default 10.
#                         75 and 143 always restart; after 2 and 3 the run ends.
#   --apply               give the JobSet to kubectl instead of printing it
#   --dry_run             with --apply: print the command
#   --help                print this text
#
# FILE is a path in the image, whose working directory is the repository, or the name of a recipe.
set -euo pipefail
# shellcheck source=launch/commands.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/commands.sh"

NAME=jaxdp HOSTS=1 GRACE="" RESTARTS=10 IMAGE="" GPU="" TPU="" CLAIM="" SPOT="" APPLY="" HAS_HOSTS=""
while [ $# -gt 0 ]; do
  case $1 in
    --image=*) IMAGE=${1#*=} ;;
    --gpu=*) GPU=${1#*=} ;;
    --hosts=*) HOSTS=${1#*=} HAS_HOSTS=yes ;;
    --tpu=*) TPU=${1#*=} ;;
    --name=*) NAME=${1#*=} ;;
    --claim=*) CLAIM=${1#*=} ;;
    --spot) SPOT=yes ;;
    --grace=*)
      GRACE=${1#*=}
      require_number --grace "$GRACE" 1
      ;;
    --restarts=*) RESTARTS=${1#*=} ;;
    --apply) APPLY=yes ;;
    --)
      shift
      break
      ;;
    *) take_common_option "$1" ;;
  esac
  shift
done
require_train "$@"
[ -n "$IMAGE" ] || fail "--image=IMAGE is missing: an image built from launch/Dockerfile"
[[ $NAME =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] || fail "--name=$NAME must be up to 40 lower-case letters, digits and hyphens"
require_number --restarts "$RESTARTS" 0

# Prints text $1 as a string of JSON, which is one of YAML too.
quoted() {
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$NEWLINE/\\n}
  text=${text//$'\t'/\\t}
  case $text in *[[:cntrl:]]*) fail "control characters cannot be given to a pod: $(show_command "$1")" ;; esac
  printf '"%s"' "$text"
}

# Prints the given texts as a list of JSON.
quoted_list() {
  local text separator=""
  printf '['
  for text in "$@"; do
    printf '%s' "$separator"
    quoted "$text" || return
    separator=", "
  done
  printf ']'
}

if [ -n "$GPU" ] && [ -z "$TPU" ]; then
  [[ $GPU =~ ^([^:]+):([1-9][0-9]?)$ ]] || fail "--gpu=$GPU must be TYPE:COUNT, e.g. nvidia-h100-80gb:8"
  require_number --hosts "$HOSTS" 1
  selector="\"cloud.google.com/gke-accelerator\": $(quoted "${BASH_REMATCH[1]}")"
  limits="{\"nvidia.com/gpu\": ${BASH_REMATCH[2]}}"
elif [ -n "$TPU" ] && [ -z "$GPU" ]; then
  [ -z "$HAS_HOSTS" ] || fail "--hosts follows from the topology of --tpu=$TPU; leave it out"
  [[ $TPU =~ ^([^:]+):([1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?)(:([1-9]))?$ ]] ||
    fail "--tpu=$TPU must be TYPE:TOPOLOGY or TYPE:TOPOLOGY:CHIPS, e.g. tpu-v5-lite-podslice:4x4"
  chips=$((${BASH_REMATCH[2]//x/*})) each=${BASH_REMATCH[5]:-4}
  [ $((chips % each)) -eq 0 ] || fail "--tpu=$TPU has $chips chips, which $each chips per node do not divide"
  HOSTS=$((chips / each))
  selector="\"cloud.google.com/gke-tpu-accelerator\": $(quoted "${BASH_REMATCH[1]}")"
  selector="$selector, \"cloud.google.com/gke-tpu-topology\": $(quoted "${BASH_REMATCH[2]}")"
  limits="{\"google.com/tpu\": $each}"
else
  fail "give one of --gpu=TYPE:COUNT and --tpu=TYPE:TOPOLOGY"
fi
[ -z "$SPOT" ] || selector="$selector, \"cloud.google.com/gke-spot\": \"true\""

# NCCL's transport inside a node needs shared memory; the default is 64 MiB.
mounts='{"name": "shared-memory", "mountPath": "/dev/shm"}'
volumes='{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}'
if [ -n "$CLAIM" ]; then
  mounts="$mounts, {\"name\": \"runs\", \"mountPath\": \"/runs\"}"
  volumes="$volumes, {\"name\": \"runs\", \"persistentVolumeClaim\": {\"claimName\": $(quoted "$CLAIM")}}"
fi

case $WORKDIR in
  *://*) ;;
  /runs/?*) [ -n "$CLAIM" ] || say "--workdir=$WORKDIR is lost with its pod: give --claim=CLAIM, a volume that is mounted at /runs" ;;
  *) say "--workdir=$WORKDIR is lost with its pod: give --claim=CLAIM and a DIR below /runs" ;;
esac

# Kubernetes expands $(NAME) in arguments, and $$ to $.
arguments=("${@//\$/\$\$}")
for_run=${GRACE:-300}
[ -n "$GRACE" ] || [ -z "$SPOT" ] || for_run=15
set_grace_option "$for_run" "$@"
arguments+=(${GRACE_OPTION[@]+"${GRACE_OPTION[@]}"})
if [ "$HOSTS" -gt 1 ]; then
  arguments+=("--coordinator=$NAME-workers-0-0.$NAME:8476" "--num_processes=$HOSTS" "--process_index=\$(JOB_COMPLETION_INDEX)")
else
  arguments+=(--num_processes=1)
fi

value_of() {
  case $1 in
    NAME) quoted "$NAME" ;;
    IMAGE) quoted "$IMAGE" ;;
    HOSTS) printf '%s' "$HOSTS" ;;
    GRACE) printf '%s' "${GRACE:-300}" ;;
    RESTARTS) printf '%s' "$RESTARTS" ;;
    ARGUMENTS) quoted_list "${arguments[@]}" ;;
    NODE_SELECTOR) printf '{%s}' "$selector" ;;
    LIMITS) printf '%s' "$limits" ;;
    MOUNTS) printf '[%s]' "$mounts" ;;
    VOLUMES) printf '[%s]' "$volumes" ;;
    *) fail "launch/gke.yaml has an unknown placeholder @$1@" ;;
  esac
}

# Errors do not end a command substitution by themselves.
render() {
  local line name value
  while IFS= read -r line; do
    if [[ $line =~ \"@([A-Z_]+)@\" ]]; then
      name=${BASH_REMATCH[1]}
      value=$(value_of "$name") || return
      line=${line%%\"@*}$value
    fi
    case $line in '#'*) ;; *) printf '%s\n' "$line" ;; esac
  done <"$REPOSITORY/launch/gke.yaml"
}

manifest=$(render)
if [ -z "$APPLY" ]; then
  printf '%s\n' "$manifest"
  exit 0
fi
require_program kubectl "install it and run gcloud container clusters get-credentials CLUSTER"
if is_dry_run; then
  printf "kubectl apply -f - <<'EOF'\n%s\nEOF\n" "$manifest"
else
  kubectl apply -f - <<<"$manifest"
fi
