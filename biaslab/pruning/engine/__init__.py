"""Forward hooks that drop visual tokens at the prefill."""
