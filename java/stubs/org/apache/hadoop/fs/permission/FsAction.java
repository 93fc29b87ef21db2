// SPDX-License-Identifier: Apache-2.0
package org.apache.hadoop.fs.permission;

public enum FsAction {
    NONE;

    public final String SYMBOL = null;
}
