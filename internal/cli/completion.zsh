# Where compinit has not run yet, register at the first prompt. An own compinit comes
# only if ~/.zshrc has none.
__banger_register()
{
    add-zsh-hook -d precmd __banger_register
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i; }
    compdef _banger banger
}
if (( $+functions[compdef] )); then
    compdef _banger banger
else
    autoload -Uz add-zsh-hook && add-zsh-hook precmd __banger_register
fi
