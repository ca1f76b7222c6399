//! Forms of starts, a table a language. `super::fill` says what stands in braces.

use pruner::Language;

/// How files of a language begin, and pieces of them.
#[derive(Debug)]
pub(super) struct Forms {
    /// What a file needs; there may be none.
    pub(super) heads: &'static [&'static str],
    /// Between the two.
    pub(super) joint: &'static str,
    /// The first thing in it.
    pub(super) bodies: &'static [&'static str],
}

pub(super) fn of(language: Language) -> &'static Forms {
    match language {
        Language::Python => &PYTHON,
        Language::Java => &JAVA,
        Language::Cpp => &CPP,
        Language::JavaScript => &JAVASCRIPT,
        Language::TypeScript => &TYPESCRIPT,
        Language::Go => &GO,
        Language::Rust => &RUST,
        Language::C => &C,
        Language::CSharp => &CSHARP,
        Language::Php => &PHP,
        Language::Ruby => &RUBY,
        Language::Shell => &SHELL,
    }
}

const PYTHON: Forms = Forms {
    heads: &[
        "import os\nimport sys",
        "import json\nfrom pathlib import Path",
        "import re\nfrom collections import defaultdict",
        "import argparse\nimport logging",
        "import numpy as np",
        "import time\nimport random",
        "from typing import Dict, List, Optional",
        "#!/usr/bin/env python3\n\"\"\"{V} {n}s.\"\"\"",
        "\"\"\"{V} the {n} of a {m}.\"\"\"\n\nfrom __future__ import annotations",
        "import unittest\n\nfrom {n} import {M}",
    ],
    joint: "\n\n\n",
    bodies: &[
        "def {v}_{n}(",
        "def {v}_{n}({m}):\n    \"\"\"",
        "def {v}_{n}s({m}s,",
        "class {N}:\n    def __init__(self, {m}",
        "class {N}{M}(",
        "class {N}Test(unittest.TestCase):\n    def test_{v}_{m}(self):\n",
        "async def {v}_{n}(",
        "@dataclass\nclass {N}:\n    {m}:",
        "@property\ndef {n}(self):\n",
        "# {V} the {n} before the {m}.\n",
        "{n}s = [",
        "{nn}_{mm} = {",
        "for {n} in {m}s:\n",
        "with open({n}_path) as",
        "try:\n    {n} = {v}_{m}(",
        "def test_{v}_{n}():\n",
        "if __name__ == \"__main__\":\n    {n} =",
        "def main():\n    parser =",
    ],
};

const JAVA: Forms = Forms {
    heads: &[
        "package com.{m}s.{n};\n\nimport java.util.List;\nimport java.util.Map;",
        "package org.{n}.{m};",
        "import java.io.IOException;\nimport java.util.ArrayList;",
        "import java.util.*;",
        "import static org.junit.Assert.assertEquals;\n\nimport org.junit.Test;",
    ],
    joint: "\n\n",
    bodies: &[
        "public class {N}{M} {\n",
        "public class {N} {\n    private",
        "public interface {N}{M} {\n",
        "/**\n * {V}s the {n} of a {m}.\n */\npublic class",
        "public final class {N}Utils {\n    public static",
        "public abstract class Abstract{N} implements {M} {\n",
        "    @Override\n    public",
        "    public static {N} {v}{M}(",
        "    private final Map<String, {N}> {m}s =",
        "    public void {v}{N}({M} {m})",
        "    /**\n     * {V} a {n}.\n     *\n     * @param {m}",
        "enum {N}Type {\n",
        "public class {N}Exception extends",
        "    @Test\n    public void test{V}{N}() {\n",
        "public class Main {\n    public static void main(String[] args) {\n        {N} {n} =",
        "    for ({N} {n} : {m}s) {\n",
    ],
};

const CPP: Forms = Forms {
    heads: &[
        "#include <iostream>\n#include <vector>",
        "#include <algorithm>\n#include <map>\n#include <string>",
        "#pragma once\n\n#include <memory>",
        "#include \"{n}.h\"\n\n#include <cassert>",
        "#ifndef {nn}_{mm}_H\n#define {nn}_{mm}_H",
        "// {V} {n}s.\n\n#include <string>",
    ],
    joint: "\n\n",
    bodies: &[
        "using namespace std;\n\nint {v}{N}(",
        "namespace {m} {\n\nclass {N} {\npublic:\n",
        "class {N}{M} {\n",
        "template <typename T>\nclass {N} {\n",
        "template <typename T>\nT {v}_{n}(const T&",
        "struct {N} {\n",
        "std::vector<{N}> {v}{M}s(",
        "void {N}::{v}{M}(",
        "bool {v}_{n}(const std::string&",
        "// {V} the {n} of a {m}.\nstatic",
        "enum class {N}Kind {\n",
        "int main() {\n    std::vector<int> {n}s",
        "int main(int argc, char** argv) {\n",
        "{N}::{N}(const {M}& {m})\n    :",
        "TEST({N}Test, {V}{M}) {\n",
        "for (const auto& {n} : {m}s) {\n",
    ],
};

const JAVASCRIPT: Forms = Forms {
    heads: &[
        "'use strict';",
        "const fs = require('fs');\nconst path = require('path');",
        "import {N} from './{n}.js';",
        "const express = require('express');",
        "import React, { useState } from 'react';",
        "/**\n * {V} {n}s.\n */",
    ],
    joint: "\n\n",
    bodies: &[
        "function {v}{N}(",
        "const {v}{N} = ({m}) =>",
        "export function {v}{N}({m},",
        "export default class {N} {\n  constructor(",
        "class {N}{M} extends",
        "async function {v}{N}(",
        "module.exports = {\n  {v}{N}",
        "/**\n * {V} the {n} of a {m}.\n * @param",
        "{N}.prototype.{v}{M} = function (",
        "const {n}s = [",
        "let {n} =",
        "describe('{n}', () => {\n  it('should {v}",
        "app.get('/{n}s',",
        "document.getElementById('{n}').addEventListener(",
        "for (const {n} of {m}s) {\n",
        "return new Promise((resolve, reject) => {\n  const {n}",
    ],
};

const TYPESCRIPT: Forms = Forms {
    heads: &[
        "import { {N} } from './{n}';",
        "import * as fs from 'fs';",
        "import { Injectable } from '@angular/core';",
        "// {V} {n}s.",
    ],
    joint: "\n\n",
    bodies: &[
        "export interface {N} {\n",
        "export class {N}{M} {\n  private",
        "export function {v}{N}({m}:",
        "export type {N} =",
        "export const {v}{N} = async (",
        "export enum {N}Kind {\n",
        "function {v}{N}<T>(",
        "const {n}s: {N}[] =",
        "describe('{N}', () => {\n",
        "/**\n * {V} the {n} of a {m}.\n */\nexport",
        "export default class {N} implements",
    ],
};

const GO: Forms = Forms {
    heads: &[
        "package main\n\nimport (\n\t\"fmt\"\n\t\"os\"\n)",
        "package {n}\n\nimport (\n\t\"errors\"\n\t\"sync\"\n)",
        "// Package {n} {v}s {m}s.\npackage {n}",
    ],
    joint: "\n\n",
    bodies: &[
        "func {V}{N}(",
        "// {N} is a {m}.\ntype {N} struct {\n",
        "func ({n} *{N}) {V}{M}(",
        "type {N} interface {\n",
        "func Test{V}{N}(t *testing.T) {\n",
        "func main() {\n\t{n}",
        "var err{N} =",
        "const (\n\t{N}{M}",
        "func New{N}({m}",
        "for _, {n} := range {m}s {\n",
        "if err := {v}{N}(",
    ],
};

const RUST: Forms = Forms {
    heads: &[
        "use std::collections::HashMap;",
        "use std::fs::File;\nuse std::io::{self, Read};",
        "//! {V}s {n}s.\n\nuse std::fmt;",
        "mod {n};\n\nuse {n}::{N};",
    ],
    joint: "\n\n",
    bodies: &[
        "pub fn {v}_{n}(",
        "/// A {n} of a {m}.\n#[derive(Debug, Clone)]\npub struct {N} {\n",
        "impl {N} {\n    pub fn new(",
        "pub enum {N} {\n",
        "pub trait {N} {\n",
        "impl fmt::Display for {N} {\n",
        "fn main() {\n    let {n}",
        "#[test]\nfn {v}s_{n}s() {\n",
        "fn {v}_{n}(&mut self, {m}:",
        "let {n}s: Vec<{N}> =",
        "match {n} {\n",
    ],
};

const C: Forms = Forms {
    heads: &[
        "#include <stdio.h>\n#include <stdlib.h>",
        "#include <string.h>\n#include \"{n}.h\"",
        "/* {V} {n}s. */\n\n#include <stdint.h>",
        "#ifndef {nn}_H\n#define {nn}_H",
    ],
    joint: "\n\n",
    bodies: &[
        "int {v}_{n}(",
        "static void {v}_{n}(struct {m} *",
        "struct {n} {\n",
        "typedef struct {n} {\n",
        "/* {V} the {n} of a {m}. */\nstatic int",
        "int main(void) {\n    int {n}",
        "int main(int argc, char *argv[])\n{\n",
        "char *{v}_{n}(const char *",
        "enum {n}_kind {\n",
        "#define {nn}_{mm}(",
        "for (i = 0; i < {n}_count; i++) {\n",
    ],
};

const CSHARP: Forms = Forms {
    heads: &["using System;\nusing System.Collections.Generic;", "using System.Linq;\nusing System.Threading.Tasks;"],
    joint: "\n\n",
    bodies: &[
        "namespace {M}s.{N}\n{\n    public class",
        "public class {N}{M}\n{\n",
        "public interface I{N}\n{\n",
        "    public async Task<{N}> {V}{M}Async(",
        "    private readonly I{N}{M} _",
        "    /// <summary>\n    /// {V}s the {n} of a {m}.\n    /// </summary>\n    public",
        "public enum {N}Kind\n{\n",
        "    [Fact]\n    public void {V}s{N}()\n    {\n",
        "    public static {N} {V}{M}(",
        "foreach (var {n} in {m}s)\n{\n",
    ],
};

const PHP: Forms = Forms {
    heads: &["<?php\n\nnamespace App\\{N};", "<?php\n\nuse App\\{N};", "<?php"],
    joint: "\n\n",
    bodies: &[
        "class {N}{M}\n{\n",
        "class {N} extends",
        "interface {N}Interface\n{\n",
        "function {v}_{n}($",
        "    public function {v}{N}(",
        "/**\n * {V} the {n} of a {m}.\n",
        "$sql = \"SELECT * FROM {n}s",
        "foreach (${n}s as ${n}) {\n",
        "if (isset($_POST['{n}'])) {\n",
        "    private ${n};\n",
    ],
};

const RUBY: Forms = Forms {
    heads: &["# frozen_string_literal: true", "require 'json'", "require_relative '{n}'"],
    joint: "\n\n",
    bodies: &[
        "class {N}{M}\n  def initialize(",
        "module {N}\n  class {M}\n",
        "def {v}_{n}(",
        "class {N} < ApplicationRecord\n",
        "describe {N} do\n  it '{v}s",
        "# {V} the {n} of a {m}.\ndef",
        "{n}s.each do |{n}|\n",
        "attr_reader :{n}, :{m}\n",
        "  def self.{v}_{n}(",
        "if {n}.nil?\n",
    ],
};

const SHELL: Forms = Forms {
    heads: &["#!/bin/bash", "#!/bin/sh\nset -e", "#!/usr/bin/env bash\nset -euo pipefail\n\n# {V} {n}s."],
    joint: "\n\n",
    bodies: &[
        "{v}_{n}() {\n",
        "{nn}_DIR=",
        "# {V} the {n} of a {m}.\n",
        "for {n} in",
        "if [ -z \"${nn}\" ]; then\n",
        "while read -r {n}; do\n",
        "usage() {\n    echo",
        "case \"$1\" in\n    {v})\n",
        "function {v}_{n} {\n    local",
        "{nn}=$(",
    ],
};

pub(super) const PROSE: Forms = Forms {
    heads: &["# {V} the {n}", "# {N}s and {m}s", "Chapter 1: The {N}"],
    joint: "\n\n",
    bodies: &[
        "The {n} of the {m} was",
        "How do you {v} a {n}? First,",
        "In this chapter we",
        "A {n} is a kind of",
        "Question: What is the {n} of a {m}?\nAnswer:",
        "Once upon a time there was a {n}",
        "To {v} the {n}, you",
        "When she saw the {n}, she",
        "According to the {m}, the {n}",
        "There are two kinds of {n}s:",
        "Many people {v} their {n}s",
        "The history of the {n} begins",
        "My favourite {n} is",
        "Researchers have found that {n}s",
        "1. {V} the {n}.\n2.",
        "It was late when he came to {v} the {n}",
        "If you want to {v} a {m}, then",
        "The most important thing about a {n} is",
        "In the United States, the {n}",
        "Dear customer,\n\nyour {n}",
        "{N}s have been used for",
        "Tom has 3 {n}s and Anna has 5 {m}s. How many",
    ],
};
