// Package fields takes fields out of structured text: JSON, YAML, dotenv and Java properties in, the bytes of files out.
// The text comes from a vault and may be hostile. Decode bounds its size, depth and number of values, so that what is
// made of it costs little memory; names are checked before they become files.
//
// Find evaluates expressions that are plain paths, such as db.users[0].password. All others are evaluated where their
// memory and time can be bounded, since a short JMESPath expression can double a list again and again: see
// provider/render.
//
// No error holds a value of the text. Names of fields are shown, cut to a readable length.
package fields
