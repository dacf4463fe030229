// Package render makes files from templates, and values from JMESPath expressions, in a process of their own.
//
// Neither can be stopped or bounded within a process: a template can recurse or double a string for ever, and so can a
// short expression. So the program keyvault-render does it (package engine). It gets one request on its standard input,
// answers on its standard output, and has nothing else: no other file or socket and no way to open one, no environment,
// no capability, little memory, one second of processor time. It ends with its answer. A Runner starts it, and ends it
// where it does not end by itself.
//
// Parse finds mistakes in a template before it is run, and which files the template needs. It links no more of
// text/template than its parser.
package render
