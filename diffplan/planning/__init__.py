"""A decision in four stages: propose, optimise, select, decode; and what else plans can answer."""
