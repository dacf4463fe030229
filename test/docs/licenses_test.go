package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/keyvault-csi/keyvault-csi-driver/test/docs/pages"
)

// licenses are those that go into the binaries, with what tells their texts: all phrases, with any space between words. The first that fits
// counts. They permit distribution under the Apache License 2.0 with their notices, which the bills of materials name.
var licenses = []struct {
	name    string
	phrases []string
}{
	{"Apache-2.0", []string{"Apache License", "Version 2.0, January 2004"}},
	{"Apache-2.0", []string{"Licensed under the Apache License, Version 2.0"}},
	{"MIT", []string{"Permission is hereby granted, free of charge, to any person obtaining a copy", "THE SOFTWARE IS PROVIDED", "AS IS"}},
	{"BSD-3-Clause", []string{"Redistribution and use in source and binary forms", "Neither the name"}},
	{"BSD-2-Clause", []string{"Redistribution and use in source and binary forms"}},
	{"ISC", []string{"Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee"}},
	{"ISC", []string{"Permission to use, copy, modify, and distribute this software for any purpose with or without fee"}},
}

var space = regexp.MustCompile(`[\s*#/]+`)

// licenseOf is the license that a text is; empty for one that is not permitted or not known.
func licenseOf(text string) string {
	text = space.ReplaceAllString(text, " ")
	for _, l := range licenses {
		if !slices.ContainsFunc(l.phrases, func(phrase string) bool { return !strings.Contains(text, space.ReplaceAllString(phrase, " ")) }) {
			return l.name
		}
	}
	return ""
}

// TestLicensesOfDependencies looks at each module that the shipped programs are built from.
func TestLicensesOfDependencies(t *testing.T) {
	var modules []string
	for system, programs := range map[string]string{"linux": "./cmd/...", "darwin": "./cmd/keyvault-csi", "windows": "./cmd/keyvault-csi"} {
		list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", //nolint:gosec // the test's own
			`{{with .Module}}{{if not .Main}}{{.Path}} {{if .Replace}}{{.Replace.Dir}}{{else}}{{.Dir}}{{end}}{{end}}{{end}}`, programs)
		list.Env = append(os.Environ(), "GOOS="+system)
		list.Dir = pages.Root
		list.Stderr = os.Stderr
		out, err := list.Output()
		if err != nil {
			t.Fatal(err)
		}
		modules = slices.AppendSeq(modules, strings.SplitSeq(strings.TrimSpace(string(out)), "\n"))
	}
	slices.Sort(modules)
	modules = slices.Compact(modules)
	modules = slices.DeleteFunc(modules, func(line string) bool { return line == "" })
	if len(modules) < 50 {
		t.Fatalf("only %d modules", len(modules))
	}
	for _, line := range modules {
		module, dir, _ := strings.Cut(line, " ")
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		texts := 0
		for _, entry := range entries {
			name := strings.ToUpper(entry.Name())
			if entry.IsDir() || !strings.HasPrefix(name, "LICENSE") && !strings.HasPrefix(name, "LICENCE") && !strings.HasPrefix(name, "COPYING") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
			if err != nil {
				t.Fatal(err)
			}
			texts++
			if licenseOf(string(text)) == "" {
				t.Errorf("%s: %s is none of the licenses that may go into the binaries", module, entry.Name())
			}
		}
		if texts == 0 {
			t.Errorf("%s has no license file", module)
		}
	}
}

func TestOtherLicensesAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"GPL":  "GNU GENERAL PUBLIC LICENSE Version 3, 29 June 2007",
		"MPL":  "Mozilla Public License Version 2.0",
		"none": "All rights reserved.",
		"BUSL": "Business Source License 1.1",
	} {
		if got := licenseOf(text); got != "" {
			t.Errorf("%s is taken for %s", name, got)
		}
	}
}
