// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs;

public class LocalFileSystem {
    public LocalFileSystem(FileSystem raw) {}
}
