//! LogQL: lexer, parser, printer, planner and evaluator; pure.
