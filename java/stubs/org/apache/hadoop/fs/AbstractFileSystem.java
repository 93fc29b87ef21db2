// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs;

public abstract class AbstractFileSystem {
    public native boolean isValidName(String path);
}
