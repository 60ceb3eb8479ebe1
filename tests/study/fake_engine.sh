#!/bin/sh
# Stands in for tuneup in tests of the study: takes the same words, leaves the same files, at once.
# FAKE_FAIL: a word; a command line that has it fails. FAKE_SLEEP: seconds that sft takes. FAKE_LOG: one line each call.
[ -n "$FAKE_LOG" ] && echo "$*" >> "$FAKE_LOG"
for word; do
    case $word in
        --output=*) out=${word#--output=} ;;
        --no-flash_attention) step=0.500 ;;
        --flash_attention) step=0.400 ;;
    esac
    if [ -n "$FAKE_FAIL" ] && [ "$word" = "$FAKE_FAIL" ]; then
        echo "step 3: the loss is NaN" >&2
        printf 'tuneup: error: \033[1mcould not go on\377\n' >&2
        exit 1
    fi
done
case "$1 $2" in
    "data new") mkdir -p "$3" && echo '{}' > "$3/train.jsonl"; exit ;;
    "tokenizer train") mkdir -p "$out"; exit ;;
    "model new") mkdir -p "$3" && echo x > "$3/model.safetensors"; exit ;;
esac
[ -n "$FAKE_SLEEP" ] && sleep "$FAKE_SLEEP"
mkdir -p "$out" || exit 1
case $1 in
    reward) more=',"accuracy":0.75' ;;
    ppo) more=',"reward":0.5,"kl":0.01,"generate_seconds":0.2,"score_seconds":0.05,"train_seconds":0.1' ;;
esac
for i in 1 2 3 4; do
    echo "{\"step\":$i,\"phase\":\"$1\",\"loss\":8.$i,\"lr\":1e-4,\"grad_norm\":1,\"tokens\":1024,\"seconds\":$step,\"joules\":null,\"peak_bytes\":1000$more}"
done > "$out/metrics.jsonl"
cat > "$out/run.json" <<EOF
{"schema_version":1,"phase":"$1","planned":{"memory":{"param":100},"peak_bytes":500,"flops":1e9,"bytes_moved":1e9,
"comm_bytes":0},"measured":{"steps":4,"warmup_steps":2,"tokens":4096,"tokens_per_second":2048,"peak_bytes":1000,
"peak_bytes_per_rank":[1000],"allocated":{"param":100},"energy":{"joules":null,"state":"unavailable","reason":"no RAPL"},
"final_loss":8.4}}
EOF
