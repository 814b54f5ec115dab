#!/bin/bash
# One vLLM server per node (or several: GPUs per node / TENSOR_PARALLEL), and the endpoint file that names them.
#
#   sbatch --nodes=4 configs/slurm/serve.sh Qwen/Qwen3-32B
#   python inference.py --method_name llm_debate --test_dataset_name GSM8K --model_name Qwen/Qwen3-32B \
#       --model_api_config model_api_config.yaml
#
# From the environment: TENSOR_PARALLEL (1), PORT (8000, the first of a node), MAX_WORKERS (256 per server),
# CONFIG (model_api_config.yaml), START_SECONDS (1800), PYTHON (.venv/bin/python), MORE (further flags of vLLM), and
# AGENTARK_ENDPOINT_KEY, a long random text: every path of the servers but /health asks for it, and the file names the
# variable, never the key. Run it from the project's folder, which every node sees.
#
# The file appears when every server is healthy. The job ends, with all servers, when one of them does, or by scancel.

#SBATCH --job-name=agentark-serve
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00

set -euo pipefail

MODEL=${1:?usage: serve.sh MODEL}
TENSOR_PARALLEL=${TENSOR_PARALLEL:-1}
PORT=${PORT:-8000}
MAX_WORKERS=${MAX_WORKERS:-256}
CONFIG=${CONFIG:-model_api_config.yaml}
START_SECONDS=${START_SECONDS:-1800}
PYTHON=${PYTHON:-.venv/bin/python}
read -r -a MORE_FLAGS <<< "${MORE:-}"
GPUS=${SLURM_GPUS_ON_NODE:-$TENSOR_PARALLEL}
SERVERS=$((GPUS / TENSOR_PARALLEL))

if ((SERVERS < 1)); then
    echo "error: TENSOR_PARALLEL=$TENSOR_PARALLEL: a node has $GPUS GPUs" >&2
    exit 2
fi

if [[ -z ${AGENTARK_ENDPOINT_KEY:-} || $AGENTARK_ENDPOINT_KEY =~ [^[:graph:]] ]]; then
    echo "error: AGENTARK_ENDPOINT_KEY: not set, or not one word; servers would answer everybody:" \
        "export AGENTARK_ENDPOINT_KEY=\$(openssl rand -hex 24)" >&2
    exit 2
fi

if [[ ${2:-} == on_node ]]; then # what srun starts on each node
    trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
    trap 'exit 143' TERM
    export VLLM_API_KEY=$AGENTARK_ENDPOINT_KEY
    export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} # the guard
    for ((k = 0; k < SERVERS; k++)); do
        first=$((k * TENSOR_PARALLEL))
        CUDA_VISIBLE_DEVICES=$(seq -s, "$first" $((first + TENSOR_PARALLEL - 1))) \
            "$PYTHON" -m vllm.entrypoints.openai.api_server --model "$MODEL" --served-model-name "$MODEL" \
            --host "${SLURMD_NODENAME:-$(hostname)}" --port $((PORT + k)) --tensor-parallel-size "$TENSOR_PARALLEL" \
            --middleware agentark.engines.launchers.guard.Guard --enable-prompt-tokens-details "${MORE_FLAGS[@]}" &
    done
    wait -n # the first server that ends, ends the job
    exit 1
fi

: "${SLURM_JOB_NODELIST:?not inside a Slurm job; use sbatch}"
rm -f "$CONFIG"
mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
srun --ntasks="${#NODES[@]}" --ntasks-per-node=1 --kill-on-bad-exit=1 \
    bash -c "$(< "$0")" "$0" "$MODEL" on_node & # only this node has Slurm's copy of the script
STEP=$!
trap 'kill $STEP 2>/dev/null || true; wait $STEP 2>/dev/null || true; rm -f "$CONFIG"' EXIT
trap 'exit 143' TERM

deadline=$((SECONDS + START_SECONDS))
lines="$MODEL:"
for node in "${NODES[@]}"; do
    for ((k = 0; k < SERVERS; k++)); do
        url="http://$node:$((PORT + k))"
        until curl --noproxy '*' --silent --fail --max-time 5 --output /dev/null "$url/health"; do
            if ! kill -0 $STEP 2>/dev/null; then
                echo "error: a server ended before all were healthy; its log is above" >&2
                exit 1
            fi
            if ((SECONDS > deadline)); then
                echo "error: $url is not healthy after $START_SECONDS s" >&2
                exit 1
            fi
            sleep 2
        done
        lines+=$'\n'"  - model_name: $MODEL"$'\n'"    model_url: $url/v1"$'\n'"    max_workers: $MAX_WORKERS"
        lines+=$'\n'"    api_key_env: AGENTARK_ENDPOINT_KEY"
    done
done
printf '%s\n' "$lines" > "$CONFIG.part" && mv "$CONFIG.part" "$CONFIG" # whole, or not there
echo "$((${#NODES[@]} * SERVERS)) servers of $MODEL, named in $CONFIG"
wait $STEP
