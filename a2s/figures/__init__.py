"""The paper's figures and Table I: from folders to one picture (or a table) each."""
