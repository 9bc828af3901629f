"""What an audit policy lets rules see: which rules are blind under it, and the smallest policy under which none is."""
