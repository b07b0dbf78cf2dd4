#!/usr/bin/env bash
# Recovers every version of every state from a state directory, with age, zstd, jq and coreutils alone.
#
#   recover.sh STATE_DIR IDENTITY OUT_DIR
#
# STATE_DIR is only read (stop the daemon, or use a copy). IDENTITY is an age identity file that a keyring is sealed to.
# OUT_DIR must not exist, and gets:
#
#   <n>/<version>    the content of one version, byte for byte; n counts the states as they first appear, since a
#                    state's name never becomes a path
#   index.jsonl      one object a version: state, version, at, sha256, size_bytes, path; "removed": true for a removal;
#                    "status": "ok"; "pruned" where the content was given up; or what is wrong with it
#   events.jsonl     all metadata, as it lies in the records
#
# Every content's length and SHA-256 are checked. The chain (who wrote it) is not: `stated verify` does that.
# Exit status: 0 all recovered, 1 something is missing or damaged (standard error says what), 2 usage.

set -euo pipefail
export LC_ALL=C
umask 077

complain() {
    printf 'recover: %s\n' "$*" >&2
    status=1
}

fail() {
    printf 'recover: %s\n' "$*" >&2
    exit "${code:-1}"
}

[ $# -eq 3 ] || code=2 fail "usage: recover.sh STATE_DIR IDENTITY OUT_DIR"
state_dir=$1
identity=$2
out_dir=$3
status=0
for tool in age zstd jq dd sha256sum; do
    command -v "$tool" >/dev/null || code=2 fail "$tool is not installed"
done
[ -d "$state_dir/log" ] || code=2 fail "$state_dir has no log/"
[ -r "$identity" ] || code=2 fail "cannot read $identity"
[ ! -e "$out_dir" ] || code=2 fail "$out_dir exists already"

# A path that begins with a dash is no option.
case $state_dir in /*) ;; *) state_dir=./$state_dir ;; esac
case $identity in /*) ;; *) identity=./$identity ;; esac
case $out_dir in /*) ;; *) out_dir=./$out_dir ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$out_dir"
: >"$out_dir/index.jsonl"
: >"$out_dir/events.jsonl"

# 1. The keyrings give identities that open everything else.
keys=()
for keyring in "$state_dir"/keys/*.age; do
    [ -e "$keyring" ] || break
    key=$work/$(basename "$keyring" .age).key
    if age -d -i "$identity" -o "$key" "$keyring" 2>/dev/null; then
        keys+=(-i "$key")
    else
        complain "$identity does not open $keyring"
    fi
done
[ ${#keys[@]} -gt 0 ] || fail "no keyring opens"

# bytes FILE OFFSET LENGTH: that part of the file.
bytes() {
    dd if="$1" iflag=skip_bytes,count_bytes,fullblock bs=1M skip="$2" count="$3" status=none
}

declare -A number_of
states=0

# Writes one version from the zstd frame on standard input: restore PATH SIZE SHA256 BASE, prints its status. BASE is
# the version of the same state that it is a patch from, recovered before, or "-".
restore() {
    local got options=(-d -q -c --long=31)
    [ "$4" = - ] || options+=("--patch-from=${1%/*}/$4")
    if ! zstd "${options[@]}" >"$1" 2>/dev/null; then
        echo "damaged: its frame does not decompress"
    elif [ "$(stat -c %s "$1")" != "$2" ]; then
        echo "damaged: its length differs"
    else
        got=$(sha256sum <"$1")
        if [ "${got%% *}" = "$3" ]; then echo ok; else echo "damaged: its SHA-256 differs"; fi
    fi
}

# For each change two lines: its fields, and the beginning of its line in the index.
changes='
    .at as $at | .what.committed // empty | .changes[] |
    ([.version, .content.sha256 // "-", .content.size_bytes // "-", .content.base // "-"]
        + if .content == null then ["removed", "-", "-"]
          elif .content.payload.inline then .content.payload.inline | ["inline", .offset_bytes, .len_bytes]
          else .content.payload.blob | ["blob", .id, .len_bytes] end
        | map(tostring) | join(" ")),
    (.state | tojson),
    ({state, version, at: $at} + if .content == null then {removed: true}
        else {sha256: .content.sha256, size_bytes: .content.size_bytes} end | tojson)'

number='^(0|[1-9][0-9]{0,17})$'
# Of the record in $work/record: offset and length of each hole that given up payloads left in its payload area, or that
# nothing is left of it.
holes=()
emptied=

# note_holes: takes the line that tells of them off the record.
note_holes() {
    local told=() n
    holes=()
    emptied=
    [ "$(head -c 7 "$work/record" | tr -d '\0')" = '{"cut":' ] || return 0
    if [ "$(head -n 1 "$work/record" | jq -r '.cut' 2>/dev/null)" = 2 ]; then
        emptied=1
        return 0
    fi
    read -r -a told < <(head -n 1 "$work/record" | jq -r '[.holes[][] | tostring] | join(" ")' 2>/dev/null) || true
    for n in "${told[@]}"; do
        [[ $n =~ $number ]] || return 0
    done
    holes=("${told[@]}")
    tail -n +2 "$work/record" >"$work/rest"
    mv "$work/rest" "$work/record"
}

# placed OFFSET LENGTH: prints where that piece of the payload area lies now; fails where it is gone.
placed() {
    local i at=$1
    for ((i = 0; i < ${#holes[@]}; i += 2)); do
        if [ "${holes[i]}" -lt $(($1 + $2)) ]; then
            [ $((holes[i] + holes[i + 1])) -le "$1" ] || return 1
            at=$((at - holes[i + 1]))
        fi
    done
    echo "$at"
}

base_or_none='^(-|[1-9][0-9]{0,17})$'
digest='^[0-9a-f]{64}$'
blob_id='^[0-9a-f]{32}$'

# What prunes say: of each state, what they dropped and where they stored a version anew.
prunes='
    .what.pruned // empty | .states[] | (.state | tojson) as $state |
    ((.dropped // [])[] | "dropped \(.[0]) \(.[1])", $state),
    ((.moved // [])[] |
        "moved \(.version) \(.base // "-") " + (if .payload.inline
            then .payload.inline | "inline \(.offset_bytes) \(.len_bytes)"
            else .payload.blob | "blob \(.id) \(.len_bytes)" end), $state)'

# The records that summaries are of, as first and last of each run.
summaries='.what.summarized // empty | (.records // [])[] | "\(.[0]) \(.[1])"'

# By number: whether a summary is of that record.
declare -A summed

# By version and state: whether it was dropped; base, kind, file or blob, and length of what was stored anew.
declare -A dropped moved
moves=0

# note_prunes: takes note of what the record in $work/record says of summaries and prunes, and keeps the payloads that
# those stored anew.
note_prunes() {
    local events at fields name what version b kind place len
    [ -z "$emptied" ] || return 0
    events=$(head -n 1 "$work/record" | jq -r '.events' 2>/dev/null) || return 0
    [[ $events =~ $number ]] || return 0
    head -n $((events + 1)) "$work/record" >"$work/metadata"
    grep -Eq '"(summarized|pruned)":' "$work/metadata" || return 0
    while read -r version b; do
        [[ $version =~ $number && $b =~ $number ]] || continue
        for ((; version <= b; version++)); do
            summed[$version]=1
        done
    done < <(tail -n +2 "$work/metadata" | jq -r "$summaries")
    at=$(stat -c %s "$work/metadata")
    tail -n +2 "$work/metadata" | jq -r "$prunes" >"$work/prunes" || return 0
    while IFS= read -r fields && IFS= read -r name; do
        read -r what version b kind place len <<<"$fields"
        [[ $version =~ $number ]] || continue
        if [ "$what" = dropped ] && [[ $b =~ $number ]]; then
            for ((; version <= b; version++)); do
                dropped["$version $name"]=1
            done
        elif [ "$what" = moved ] && [[ $len =~ $number ]]; then
            if [ "$kind" = inline ] && [[ $place =~ $number ]]; then
                if place=$(placed "$place" "$len"); then
                    moves=$((moves + 1))
                    bytes "$work/record" $((at + place)) "$len" >"$work/moved.$moves"
                    place=$moves
                else
                    # Dropped, or stored anew once more, by a prune that comes later.
                    kind=gone place=-
                fi
            fi
            moved["$version $name"]="$b $kind $place $len"
        fi
    done <"$work/prunes"
}

# recover_change FIELDS NAME ENTRY PAYLOADS_AT: one version out of $work/record.
recover_change() {
    local version sha256 size_bytes base kind a b n path outcome blob from
    read -r version sha256 size_bytes base kind a b <<<"$1"
    if [[ ! $version =~ $number ]]; then
        complain "record $seq: a version that is no number"
        return
    fi
    if [ -z "${number_of[$2]+set}" ]; then
        states=$((states + 1))
        number_of[$2]=$states
        mkdir "$out_dir/$states"
    fi
    n=${number_of[$2]}
    path=$n/$version
    if [ "$kind" = removed ]; then
        printf '%s,"status":"ok"}\n' "${3%\}}" >>"$out_dir/index.jsonl"
        return
    fi
    if [ -n "${dropped["$version $2"]+set}" ]; then
        printf '%s,"status":"pruned"}\n' "${3%\}}" >>"$out_dir/index.jsonl"
        return
    fi
    from=$work/record
    if [ -n "${moved["$version $2"]+set}" ]; then
        read -r base kind a b <<<"${moved["$version $2"]}"
        if [ "$kind" = inline ]; then
            from=$work/moved.$a
            a=$((-$4))
        fi
    fi
    if [ "$kind" = inline ] && [ "$from" = "$work/record" ] && [[ $a =~ $number && $b =~ $number ]]; then
        a=$(placed "$a" "$b") || kind=gone
    fi
    if [[ ! $sha256 =~ $digest || ! $size_bytes =~ $number || ! $b =~ $number || ! $base =~ $base_or_none ]]; then
        outcome="damaged: its metadata is malformed"
    elif [ "$base" != - ] && [ ! -e "$out_dir/$n/$base" ]; then
        outcome="damaged: it is a patch from version $base, which is not recovered"
    elif [ "$kind" = gone ]; then
        outcome="missing: its payload was taken out, although no prune gave it up"
    elif [ "$kind" = inline ] && [[ $a =~ $number || $from != "$work/record" ]]; then
        outcome=$(bytes "$from" $(($4 + a)) "$b" | restore "$out_dir/$path" "$size_bytes" "$sha256" "$base")
    elif [ "$kind" = blob ] && [[ $a =~ $blob_id ]]; then
        blob=$state_dir/blob/${a:0:2}/$a.age
        if [ ! -e "$blob" ]; then
            outcome="missing: $(basename "$blob")"
        elif ! age -d "${keys[@]}" -o "$work/payload" "$blob" 2>/dev/null; then
            outcome="damaged: $(basename "$blob") does not open"
        else
            outcome=$(restore "$out_dir/$path" "$size_bytes" "$sha256" "$base" <"$work/payload")
        fi
    else
        outcome="damaged: its metadata is malformed"
    fi
    if [ "$outcome" = ok ]; then
        printf '%s,"path":"%s","status":"ok"}\n' "${3%\}}" "$path" >>"$out_dir/index.jsonl"
    else
        rm -f "$out_dir/$path"
        printf '%s,"status":"%s"}\n' "${3%\}}" "$outcome" >>"$out_dir/index.jsonl"
        complain "record $seq, state $2 version $version: $outcome"
    fi
}

# recover_record: what lies in $work/record.
recover_record() {
    local events payloads_at fields name entry
    if [ -n "$emptied" ]; then
        [ -n "${summed[$seq]+set}" ] || complain "record $seq: what it told was taken out, although no summary tells of it"
        return
    fi
    events=$(head -n 1 "$work/record" | jq -r '.events' 2>/dev/null) || events=
    if [[ ! $events =~ $number ]]; then
        complain "record $seq: no envelope"
        return
    fi
    head -n $((events + 1)) "$work/record" >"$work/metadata"
    payloads_at=$(stat -c %s "$work/metadata")
    cat "$work/metadata" >>"$out_dir/events.jsonl"
    if ! tail -n +2 "$work/metadata" | jq -r "$changes" >"$work/changes"; then
        complain "record $seq: its metadata is no JSON"
    fi
    while IFS= read -r fields && IFS= read -r name && IFS= read -r entry; do
        recover_change "$fields" "$name" "$entry" "$payloads_at"
    done <"$work/changes"
}

# each_record WHAT: the log, record by record; WHAT is called for each that opens, complaints are made by the last pass.
header='^stated1 ([1-9a-f][0-9a-f]{0,14}) (0|[1-9a-f][0-9a-f]{0,5}) ([0-9a-f]{64}) (([1-9a-f][0-9a-f]{0,5}) )?([0-9a-f]{8})$'
each_record() {
    local what=$1 log len at line rest sealed_len check
    expected=1
    for log in "$state_dir"/log/*.log; do
        [ -e "$log" ] || fail "log/ holds no log file"
        len=$(stat -c %s "$log")
        at=0
        while [ "$at" -lt "$len" ]; do
            line=$(bytes "$log" "$at" 128 | tr '\0' '\n' | head -n 1)
            if [[ ! $line =~ $header ]]; then
                # The zeros that files are filled with ahead; anything else is damage, or was never acknowledged.
                rest=$({ bytes "$log" "$at" "$len" || true; } | tr -d '\0' | wc -c)
                [ "$rest" -eq 0 ] || [ "$what" != recover_record ] ||
                    complain "$log byte $at: no record $expected here (a crash may leave part of the last record)"
                break
            fi
            seq=$((16#${BASH_REMATCH[1]}))
            sealed_len=$((16#${BASH_REMATCH[2]}))
            check=$(printf '%s ' "${line% *}" | sha256sum)
            if [ "${check:0:8}" != "${BASH_REMATCH[6]}" ]; then
                [ "$what" != recover_record ] || complain "$log byte $at: the header of record $expected is damaged"
                break
            fi
            [ "$seq" -eq "$expected" ] || [ "$what" != recover_record ] || complain "$log byte $at: record $seq where record $expected belongs"
            at=$((at + ${#line} + 1))
            bytes "$log" "$at" "$sealed_len" >"$work/sealed"
            if age -d "${keys[@]}" -o "$work/record" "$work/sealed" 2>/dev/null; then
                note_holes
                $what
            elif [ "$what" = recover_record ]; then
                complain "$log byte $at: record $seq does not open (a crash may leave part of the last record)"
            fi
            at=$((at + sealed_len))
            expected=$((seq + 1))
        done
    done
}

# 2. Which contents were given up, and what was stored anew; then everything else.
each_record note_prunes
each_record recover_record

printf 'recover: %s records, %s states, %s versions\n' \
    $((expected - 1)) "$states" "$(wc -l <"$out_dir/index.jsonl")" >&2
exit "$status"
