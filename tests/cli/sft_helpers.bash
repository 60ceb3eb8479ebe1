# What the tests of phases share: a tiny model and data, made once a file, and runs of them.

bats_require_minimum_version 1.5.0
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMP_WAIT_POLICY=passive
export XDG_CACHE_HOME=$BATS_FILE_TMPDIR # a profile that `tuneup doctor --profile` left would add predictions
bin=${TUNEUP_BIN:-$BATS_TEST_DIRNAME/../../build/release/tuneup}

# $home/data, $home/tok and $home/m: 37,696 parameters, 512 ids, 128 positions.
make_home() {
    export home
    home=$(mktemp -d)
    "$bin" data new -q "$home/data" --records 64 --eval_records 8
    "$bin" tokenizer train -q --data "$home/data/train.jsonl" --vocab_size 512 --output "$home/tok"
    tiny_model "$home/m"
}

# A test has a folder of its own, $dir. A file that needs more at its beginning has functions of its own after loading this.
setup_file() {
    make_home
}

teardown_file() {
    rm -rf "$home"
}

setup() {
    dir=$(mktemp -d)
}

teardown() {
    rm -rf "$dir"
}

tiny_model() {
    "$bin" model new -q --size opt-tiny --hidden_size 32 --ffn_dim 64 --num_hidden_layers 2 --num_attention_heads 4 \
        --word_embed_proj_dim 32 --max_position_embeddings 128 --tokenizer "$home/tok" "$@"
}

# For the rest of a test under the address sanitizer: what MPI's unloaded plugins leave has no name to suppress.
no_leaks_of_mpi() {
    export LSAN_OPTIONS=detect_leaks=0
}

# The words of a small run: the phase, the output's name, then more words.
train_words() {
    local phase=$1 split=1,0,0
    shift
    [ "$phase" = sft ] || split=0,1,0
    if [ "$phase" = ppo ]; then
        ppo_words "$@"
        return
    fi
    [[ " $* " != *' --ranks '* ]] || no_leaks_of_mpi
    words=("$phase" --model "$home/m" --data "$home/data" --data_split $split --max_seq_len 128 --batch_size 8 --threads 1
        --eval_batches 1 --output "$@")
}

# The judge is "$home/judge".
ppo_words() {
    [[ " $* " != *' --ranks '* ]] || no_leaks_of_mpi
    words=(ppo --actor "$home/m" --critic "$home/judge" --data "$home/data" --data_split 0,0,1 --max_prompt_seq_len 104
        --max_answer_seq_len 24 --generation_batch_size 4 --batch_size 4 --threads 1 --eval_batches 1 --num_warmup_steps 0
        --actor_learning_rate 1e-3 --critic_learning_rate 1e-3 --output "$@")
}

make_judge() {
    train_words reward "$home/judge" -q --max_steps 2
    "$bin" "${words[@]}"
}

sft_words() {
    train_words sft "$@"
}

sft() {
    sft_words "$@"
    "$bin" "${words[@]}"
}

sft_cut() {
    train_cut sft "$@"
}

# train_cut PHASE STEP SIGNAL OUTPUT WORDS...: a run that gets a signal as soon as the checkpoint of that step is told, or meanwhile a function is called; $who: the
# started process, or "rank" for the last of its ranks. What it says ends in $dir/log, its exit status in $status.
train_cut() {
    local phase=$1 at=$2 signal=$3 line pid
    shift 3
    train_words "$phase" "$@" -v
    rm -f "$dir/pipe" "$dir/log"
    mkfifo "$dir/pipe"
    nice -n 10 "$bin" "${words[@]}" 2>"$dir/pipe" >"$dir/stdout" 3>&- &
    pid=$!
    exec 9<"$dir/pipe"
    while read -r line <&9; do
        echo "$line" >>"$dir/log"
        [[ $line == *"checkpoint at step $at" ]] && break
    done
    case ${who:-$(type -t "$signal")} in
        function) "$signal" ;;
        rank) kill "-$signal" "$(pgrep -P "$(pgrep -P $pid)" | tail -1)" ;;
        *) kill "-$signal" $pid ;;
    esac
    cat <&9 >>"$dir/log"
    exec 9<&-
    status=0
    wait $pid || status=$?
    echo "${words[*]} ended with $status and these last words:" # bats shows it if the test fails
    tail -n 20 "$dir/log"
}

# near A B TOLERANCE, relative
near() {
    awk -v a="$1" -v b="$2" -v t="$3" 'BEGIN { d = a - b; exit !(d * d <= t * t * b * b) }'
}

# The losses of a run, a line each.
losses() {
    grep -o '"loss": *[0-9.e+-]*' "$1/metrics.jsonl" | tr -d ' ' | cut -d: -f2
}

# near_losses TOLERANCE A B: each of B is near that of A, and they are not all the same: the words did something.
near_losses() {
    paste <(losses "$2") <(losses "$3") | awk -v t="$1" '
        { if (($1 - $2) ^ 2 > (t * $1) ^ 2) { print "line " NR ": " $1 " and " $2; bad = 1 } differs += $1 != $2 }
        END { exit bad || !differs }'
}

# metrics.jsonl without what a clock or a meter says.
metrics() {
    sed -E 's/"([a-z]+_seconds|seconds|joules|peak_bytes)":[^,}]*,?//g' "$1/metrics.jsonl"
}

# Both folders hold the same model or models, and the same numbers of every step.
same_run() {
    for model in "$1"/model.safetensors "$1"/*/model.safetensors; do
        [ ! -e "$model" ] || cmp "$model" "$2${model#"$1"}"
    done
    diff <(metrics "$1") <(metrics "$2")
}

usual=(--gradient_accumulation_steps 2 --num_train_epochs 10 --dropout 0.1 --save_interval 3)

# kill_and_resume PHASE WORDS...: the same run, whole, and killed after step 9. $who as in train_cut.
kill_and_resume() {
    local phase=$1
    shift
    train_words "$phase" "$dir/whole" -q "${usual[@]}" "$@"
    "$bin" "${words[@]}"
    train_cut "$phase" 9 KILL "$dir/killed" "${usual[@]}" "$@"
    [ "$status" -ne 0 ]
    [ ! -e "$dir/killed/model.safetensors" ]
    grep -q '"state": "running"' "$dir/killed/run.json"
    train_words "$phase" "$dir/killed" "${usual[@]}" "$@" --resume
    run -0 "$bin" "${words[@]}"
    [[ $output == *'going on from step '* ]]
    same_run "$dir/whole" "$dir/killed"
}
