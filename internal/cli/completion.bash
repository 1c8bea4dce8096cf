# Without the package bash-completion, take the words apart here: bash splits them at =
# and : as well.
__banger_init_completion()
{
    COMPREPLY=()
    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local rest=${COMP_LINE:0:COMP_POINT} i gap word
    words=() cword=-1
    for ((i = 0; i <= COMP_CWORD; i++)); do
        gap=${rest%%[![:space:]]*}
        rest=${rest#"$gap"}
        word=${COMP_WORDS[i]}
        ((i < COMP_CWORD)) || word=$rest
        rest=${rest#"$word"}
        if [[ -z $gap && i -gt 0 ]] && [[ $word == [=:]* || ${COMP_WORDS[i-1]} == *[=:] ]]; then
            words[cword]+=$word
        else
            words[++cword]=$word
        fi
    done
    cur=${words[cword]}
    prev=
    ((cword == 0)) || prev=${words[cword-1]}
    # After a redirection comes a file, which bash completes itself.
    [[ $cur != [\<\>]* && $prev != [\<\>]* ]]
}
