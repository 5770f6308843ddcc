"""Pages from records: notebooks rendered, tables, figures, sentences, and the index of all."""
